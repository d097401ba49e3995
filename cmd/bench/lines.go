//go:build !release

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// verdictLines reads the handler's log for the line that says a VM's verdict. The
// handler writes it when the record that holds the verdict is in storage. So the
// moment is known without asking storage, which asking would slow down.
type verdictLines struct {
	mu   sync.Mutex
	wait map[string]chan time.Time // guarded by mu; by folded ARM id
}

func newVerdictLines() *verdictLines { return &verdictLines{wait: map[string]chan time.Time{}} }

// Write takes whole lines of the handler's output.
func (v *verdictLines) Write(lines []byte) (int, error) {
	now := time.Now()
	for line := range bytes.Lines(lines) {
		if id := verdictOf(line); id != "" {
			v.mu.Lock()
			if c, ok := v.wait[id]; ok {
				delete(v.wait, id)
				c <- now
			}
			v.mu.Unlock()
		}
	}
	return len(lines), nil
}

// verdictOf is the folded id of the object whose verdict a line says, "" for any
// other line.
func verdictOf(line []byte) string {
	if !bytes.Contains(line, []byte(`"msg":"verdict"`)) {
		return ""
	}
	var l struct {
		Object string `json:"object"`
	}
	if json.Unmarshal(line, &l) != nil {
		return ""
	}
	return strings.ToLower(l.Object)
}

// expect gives the way to wait for a VM's next verdict. Call it before the event.
func (v *verdictLines) expect(id string) func(context.Context) (time.Time, error) {
	c := make(chan time.Time, 1)
	v.mu.Lock()
	v.wait[strings.ToLower(id)] = c
	v.mu.Unlock()
	return func(ctx context.Context) (time.Time, error) {
		const most = 30 * time.Second
		t := time.NewTimer(most)
		defer t.Stop()
		select {
		case at := <-c:
			return at, nil
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		case <-t.C:
			return time.Time{}, fmt.Errorf("the handler's log has no verdict on %s after %s; the bench needs its level to be info or lower", id, most)
		}
	}
}
