package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/config"
	"cvmguard/internal/customhandler"
)

// serve is the custom handler.
//
//	host ──HTTP──> customhandler.Server ──> Mux ──> handlers ──> App (made on first use)
//	                 port open first                              │
//	                                                     reconcile.Loop, fleet.Fleet
//	                                                              │
//	                                                        internal/azure
//
// environ is the environment as NAME=value, which is looked through for names
// that were spelled wrongly.
func serve(getenv func(string) string, environ []string, stderr io.Writer) int {
	cfg, err := config.Load(getenv)
	c := &console{stderr: stderr}
	unknown := unknownSettings(environ)
	if err != nil {
		c.fail(err)
		if err := policyBeside(err, getenv); err != nil {
			c.fail(err)
		}
		for _, u := range unknown {
			c.say("setting %s", u)
		}
		return exitCannot
	}
	// stdout: the host takes each line of stderr for an error.
	log := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: cfg.LogLevel}))
	for _, u := range unknown {
		log.Warn("a setting is not known and has no effect", "setting", u.name, "nearest", u.nearest)
	}
	doc, err := policyInForce(cfg)
	shadow, shadowErr := shadowPolicy(cfg)
	for _, err := range []error{err, shadowErr} {
		if err != nil {
			c.fail(err)
		}
	}
	if err != nil || shadowErr != nil {
		return exitCannot
	}
	mux := customhandler.NewMux(log, "api")
	mux.Limits.Parallel = cfg.MaxParallel
	mux.Limits.Time = cfg.TurnTimeout + 5*time.Second
	handlers.Register(mux, lazyApp(cfg, doc, shadow, log))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := customhandler.NewServer(customhandler.ServerOptions{Handler: mux, Port: cfg.Port, Log: log}).Run(ctx); err != nil {
		c.fail(fmt.Errorf("serving on port %d: %w; see who holds the port", cfg.Port, err))
		return exitNot
	}
	return exitOK
}

// Exit statuses.
const (
	exitOK     = 0
	exitNot    = 1 // not compliant, unknown, or a fault of the moment
	exitCannot = 2 // settings or arguments
)
