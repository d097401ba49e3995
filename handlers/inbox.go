package handlers

import (
	"context"
	"net/http"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

func vmID(r ledger.Row) cvm.VMID { return cvm.VMID(r.ID) }

// maxLetters bounds a listing of the inbox.
const maxLetters = 500

// LetterView is a dead letter as the API shows it.
type LetterView struct {
	ID      string     `json:"id"`
	Source  string     `json:"source"`
	Reason  string     `json:"reason"`
	Size    int        `json:"size"`
	Tries   int        `json:"tries,omitempty"`
	Times   int        `json:"times,omitempty"` // how often it came again after it had an outcome
	At      time.Time  `json:"at"`
	Object  string     `json:"object,omitempty"`
	Outcome string     `json:"outcome,omitempty"`
	Done    *time.Time `json:"outcomeAt,omitempty"`
}

func viewOf(l ledger.Letter) LetterView {
	return LetterView{ID: l.ID, Source: l.Source, Reason: l.Reason, Size: l.Size, Tries: l.Tries, Times: l.Times, At: l.At, Object: l.Object,
		Outcome: l.Outcome, Done: timeOrNil(l.OutcomeAt)}
}

// Inbox lists the dead letters, shows one's bytes, and puts one on the loop again.
func Inbox(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		if p := only(c.Query, "all"); p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		id, act := c.Params["id"], c.Params["act"]
		switch {
		case c.Method == http.MethodGet && id == "":
			all, p := flag(c.Query, "all")
			if p != nil {
				return refuse(http.StatusBadRequest, *p)
			}
			return app.listInbox(ctx, !all)
		case c.Method == http.MethodGet && act == "":
			return app.letter(ctx, id)
		case c.Method == http.MethodPost && act == "redrive":
			return app.redrive(ctx, id)
		}
		return refuse(http.StatusNotFound, problem{Field: "act", Given: act, Message: "there are GET /api/inbox, GET /api/inbox/{id} and POST /api/inbox/{id}/redrive"})
	}
}

func (a *App) listInbox(ctx context.Context, openOnly bool) customhandler.HTTPAnswer {
	out := struct {
		Open    int          `json:"open"`
		All     int          `json:"all"`
		Letters []LetterView `json:"letters"`
	}{Letters: []LetterView{}}
	var err error
	if out.Open, out.All, err = a.Inbox.Count(ctx); err != nil {
		return failed(err)
	}
	err = a.Inbox.List(ctx, maxLetters, openOnly, func(l ledger.Letter) bool {
		out.Letters = append(out.Letters, viewOf(l))
		return true
	})
	if err != nil {
		return failed(err)
	}
	return answer(http.StatusOK, out)
}

// noLetter answers for an id that no letter has. Where nothing was ever kept the
// store has no table to look in, which is no news for the caller.
func noLetter(id string) customhandler.HTTPAnswer {
	return refuse(http.StatusNotFound, problem{Field: "id", Given: id, Message: "there is no letter with this id, or no longer (an id is 32 hex digits in lower case); list them with GET /api/inbox?all=true",
		Example: "/api/inbox/00112233445566778899aabbccddeeff", Code: string(fault.NotFound)})
}

func (a *App) letter(ctx context.Context, id string) customhandler.HTTPAnswer {
	l, err := a.Inbox.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return noLetter(id)
	}
	if err != nil {
		return failed(err)
	}
	// In base64: the host carries text alone, and the bytes may be anything.
	return answer(http.StatusOK, struct {
		LetterView
		Body []byte `json:"body"`
	}{viewOf(l), l.Body})
}

// redrive puts what a letter names on the loop, if anybody can make sense of it now.
func (a *App) redrive(ctx context.Context, id string) customhandler.HTTPAnswer {
	l, err := a.Inbox.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return noLetter(id)
	}
	if err != nil {
		return failed(err)
	}
	m, err := a.readLetter(l)
	if err != nil {
		return refuse(http.StatusConflict, problem{Field: "id", Given: id, Message: "it still can't be understood: " + err.Error(), Code: string(fault.KindOf(err))})
	}
	m.Cause = ledger.Cause{Kind: "redrive", At: a.Now(), ID: id, Nonce: m.Cause.Nonce, Fresh: m.Cause.Fresh}
	if fromEvent := l.Source != ledger.SourceQueue && l.Source != ledger.SourcePoison; fromEvent && m.Shared != "" {
		_, err = a.Fleet.WakeByKey(ctx, cvm.KeyID(m.Shared), m.Cause)
	} else {
		err = fleet.Wake(ctx, a.Queue, m)
	}
	if err != nil {
		return failed(err)
	}
	if err := a.Inbox.SetOutcome(ctx, id, "redriven", a.Now()); err != nil {
		return failed(err)
	}
	return answer(http.StatusAccepted, map[string]any{"id": id, "object": m.VM + m.Shared})
}

// readLetter reads a letter as what it came as: a message, or an event about a VM
// or a key.
func (a *App) readLetter(l ledger.Letter) (reconcile.Message, error) {
	if l.Source == ledger.SourceQueue || l.Source == ledger.SourcePoison {
		m, err := reconcile.DecodeMessage(l.Body)
		m.Due = time.Time{}
		return m, err
	}
	vm, cause, drop, err := a.Decider.Decide(l.Body)
	if err != nil || drop == "" {
		return reconcile.Message{VM: string(vm), Cause: cause}, err
	}
	key, cause, dropKey, err := a.DecideKey(l.Body)
	if err == nil && dropKey != "" {
		err = fault.New(fault.Invalid, "reading letter", l.ID, "%s", drop)
	}
	return reconcile.Message{Shared: string(key), Cause: cause}, err
}
