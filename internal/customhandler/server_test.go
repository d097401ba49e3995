package customhandler

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestServer(t *testing.T) {
	m := NewMux(nil, "")
	begun := make(chan struct{})
	release := make(chan struct{})
	m.Queue("work", func(context.Context, QueueCall) error { close(begun); <-release; return nil })
	s := NewServer(ServerOptions{Handler: m})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	url := "http://" + s.Addr()
	answer := make(chan int, 1)
	go func() {
		res, err := http.Post(url+"/work", "application/json", strings.NewReader(`{"Data":{"work":"x"}}`))
		if err != nil {
			answer <- 0
			return
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || len(body) == 0 {
			answer <- -1
			return
		}
		answer <- res.StatusCode
	}()
	<-begun
	cancel()
	// Running work goes on, new work is refused.
	for deadline := time.Now().Add(3 * time.Second); ; {
		if status, _, _ := post(t, url+"/work", `{}`); status == 503 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("new work isn't refused")
		}
	}
	close(release)
	if status := <-answer; status != 200 {
		t.Errorf("the running invocation ended with %d", status)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := http.Get(url + "/"); err == nil {
		t.Error("the port is open after the end")
	}
}

func TestServerCancelsWhatDoesntEnd(t *testing.T) {
	m := NewMux(nil, "")
	begun, told := make(chan struct{}), make(chan struct{})
	m.Queue("work", func(ctx context.Context, _ QueueCall) error {
		close(begun)
		<-ctx.Done()
		close(told)
		return ctx.Err()
	})
	s := NewServer(ServerOptions{Handler: m, Drain: 200 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	go func() {
		res, err := http.Post("http://"+s.Addr()+"/work", "application/json", strings.NewReader(`{"Data":{"work":"x"}}`))
		if err == nil {
			res.Body.Close()
		}
	}()
	<-begun
	began := time.Now()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-told
	if spent := time.Since(began); spent > time.Second {
		t.Errorf("the end took %v", spent)
	}
}

func TestServerPort(t *testing.T) {
	first := NewServer(ServerOptions{Handler: NewMux(nil, "")})
	if err := first.Listen(); err != nil {
		t.Fatal(err)
	}
	defer first.listener.Close()
	_, port, _ := strings.Cut(first.Addr(), ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	second := NewServer(ServerOptions{Handler: NewMux(nil, ""), Port: n, Bind: 50 * time.Millisecond})
	if err := second.Run(context.Background()); err == nil {
		t.Error("two servers on one port")
	}
	env := func(pairs map[string]string) func(string) string { return func(k string) string { return pairs[k] } }
	for _, c := range []struct {
		env  map[string]string
		want int
	}{
		{map[string]string{"FUNCTIONS_CUSTOMHANDLER_PORT": "7001", "FUNCTIONS_HTTPWORKER_PORT": "7002"}, 7001},
		{map[string]string{"FUNCTIONS_HTTPWORKER_PORT": "7002"}, 7002}, {nil, 0},
		{map[string]string{"FUNCTIONS_CUSTOMHANDLER_PORT": "x"}, 0}, {map[string]string{"FUNCTIONS_CUSTOMHANDLER_PORT": "70000"}, 0},
	} {
		if got, err := PortFromEnv(env(c.env)); got != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%v: %d, %v", c.env, got, err)
		}
	}
}
