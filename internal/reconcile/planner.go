package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// OperationAsk is what a person asks for: the kind, and what it is about.
type OperationAsk struct {
	Kind remedy.OperationKind
	// DES, Key ("": the newest version of its present key) and Wave (0: the default)
	// are a rotation's.
	DES  cvm.DESID
	Key  cvm.KeyID
	Wave int
	// VM and Recreation are a re-creation's.
	VM         cvm.VMID
	Recreation remedy.RecreationOptions
	// Record is the record, <chain>/<number>, whose step is to be undone; Plan the
	// hash of a re-creation that is to be gone back on. An undo has one of them.
	Record string
	Plan   string
	By     string
}

const opPlan = "planning an operation"

// AskError is an error about one field of what was asked for, by its name in the API.
type AskError struct {
	Field string
	Err   error
}

// Error is the text of the error itself.
func (e *AskError) Error() string { return e.Err.Error() }

// Unwrap gives the error itself.
func (e *AskError) Unwrap() error { return e.Err }

// asked blames a field for an error, nil for none.
func asked(field string, err error) error {
	if err == nil {
		return nil
	}
	return &AskError{field, err}
}

// PlanOperation reads what an operation rests on, makes its plan and keeps it. It
// writes nothing to Azure. fault.Blocked: there is doubt, and the error lists it.
func (l *Loop) PlanOperation(ctx context.Context, ask OperationAsk) (hash string, op remedy.Operation, err error) {
	if l.Planning == nil {
		return "", op, fault.New(fault.Bug, opPlan, string(ask.Kind), "there is nothing to read Azure with")
	}
	switch ask.Kind {
	case remedy.RotateKeyOperation:
		op, err = l.planRotation(ctx, ask)
	case remedy.RecreateOperation:
		op, err = l.planRecreation(ctx, ask)
	case remedy.UndoOperation:
		// Whatever it comes to, a person gave one of these alone.
		if op, err = l.planUndo(ctx, ask); ask.Plan != "" {
			err = asked("plan", err)
		} else {
			err = asked("record", err)
		}
	default:
		err = asked("kind", fault.New(fault.Invalid, opPlan, string(ask.Kind), "there is no such kind; give %s, %s or %s", remedy.RotateKeyOperation, remedy.RecreateOperation, remedy.UndoOperation))
	}
	if err != nil {
		return "", op, err
	}
	if err := l.keepPolicy(ctx); err != nil {
		return "", op, err
	}
	if hash, err = l.operations().Put(ctx, op); err != nil {
		return "", op, err
	}
	// The look makes its row, by which it is listed, and its first record.
	m := Message{Shared: ledger.OperationID(op.Subscription, hash), Cause: ledger.Cause{Kind: ledger.CausePlanned, At: l.Now().UTC(), By: ask.By}}
	if err := l.enqueue(ctx, m, 0); err != nil {
		return "", op, err
	}
	l.log().Info("an operation was planned", slog.String("plan", hash), slog.String("kind", string(op.Kind)), slog.String(logObject, op.Object), slog.String("by", ask.By))
	return hash, op, nil
}

func (l *Loop) planRotation(ctx context.Context, ask OperationAsk) (remedy.Operation, error) {
	id, err := cvm.ParseDESID(string(ask.DES))
	if err != nil {
		return remedy.Operation{}, asked("des", err)
	}
	if ask.Key != "" {
		if _, err := cvm.ParseKeyID(string(ask.Key)); err != nil {
			return remedy.Operation{}, asked("key", err)
		}
	}
	if ask.Wave < 0 || ask.Wave > remedy.MaxWave {
		return remedy.Operation{}, asked("wave", fault.New(fault.Invalid, opPlan, strconv.Itoa(ask.Wave), "a step takes down 1 to %d VMs", remedy.MaxWave))
	}
	also, err := l.VMsOnSet(ctx, id)
	if err != nil {
		return remedy.Operation{}, err
	}
	in, err := remedy.ReadRotation(ctx, l.Planning, id, ask.Key, also, l.Policy, l.Now())
	if err != nil {
		return remedy.Operation{}, asked("des", err)
	}
	in.Wave, in.By = ask.Wave, ask.By
	op, err := remedy.PlanRotation(in)
	return op, asked("des", err)
}

// VMsOnSet are the VMs that hang on a set by our own books: an ephemeral OS disk is
// no resource, so no list of Azure's names them.
func (l *Loop) VMsOnSet(ctx context.Context, id cvm.DESID) ([]cvm.VMID, error) {
	var out []cvm.VMID
	f := ledger.Filter{Equal: map[string]string{ledger.ColDES: id.Fold()}}
	err := l.Tables.Query(ctx, ledger.TableVMs, f, func(e ledger.Entity) bool {
		if e.Cols[ledger.ColVerdict] != string(policy.Gone) {
			out = append(out, cvm.VMID(e.Cols[ledger.ColID]))
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the VMs on disk encryption set %q: %w", id, err)
	}
	return out, nil
}

func (l *Loop) planRecreation(ctx context.Context, ask OperationAsk) (remedy.Operation, error) {
	id, err := cvm.ParseVMID(string(ask.VM))
	if err != nil {
		return remedy.Operation{}, asked("vm", err)
	}
	if ask.Recreation.DES != "" {
		if _, err := cvm.ParseDESID(string(ask.Recreation.DES)); err != nil {
			return remedy.Operation{}, asked("des", err)
		}
	}
	in, err := ReadRecreation(ctx, l.Azure, l.Planning, id, ask.Recreation, l.Policy, l.Now())
	var option *fault.Error
	if fault.Is(err, fault.Invalid) && errors.As(err, &option) && (option.Object == "image" || option.Object == "size") {
		return remedy.Operation{}, asked(option.Object, err) // the options' own check names them
	}
	if err != nil {
		return remedy.Operation{}, asked("vm", err)
	}
	in.By = ask.By
	op, err := remedy.PlanRecreation(in)
	return op, asked("vm", err)
}

// ReadRecreation judges a VM and reads what its re-creation rests on.
func ReadRecreation(ctx context.Context, judged Azure, az remedy.RecreationReader, id cvm.VMID, o remedy.RecreationOptions, d *policy.Document, now time.Time) (remedy.RecreationInput, error) {
	p, err := Observer{Azure: judged, Fresh: true}.VM(ctx, id)
	if err != nil {
		return remedy.RecreationInput{}, err
	}
	return remedy.ReadRecreation(ctx, az, p.ID, o, policy.Judge(p, d, now), d, now)
}

func (l *Loop) planUndo(ctx context.Context, ask OperationAsk) (remedy.Operation, error) {
	if ask.Plan != "" {
		return l.planBack(ctx, strings.ToLower(ask.Plan), ask.By)
	}
	rec, err := l.doneStep(ctx, ask.Record)
	if err != nil {
		return remedy.Operation{}, err
	}
	step := *rec.Step
	if des, key, ok := step.RotatedFrom(); ok {
		ask.DES, ask.Key = des, key
		return l.planRotation(ctx, ask)
	}
	if step.Kind == remedy.CreateVM {
		_, hash, err := ledger.ParseOperationID(rec.Object)
		if err != nil {
			return remedy.Operation{}, err
		}
		return l.planBack(ctx, hash, ask.By)
	}
	sub, err := l.subscriptionOf(ctx, rec.Object)
	if err != nil {
		return remedy.Operation{}, err
	}
	return remedy.PlanUndo(remedy.UndoInput{Record: ask.Record, Object: rec.Object, Subscription: sub, Step: step, Key: ledger.SendKey(step),
		Policy: l.Policy, Now: l.Now(), By: ask.By})
}

// planBack plans the way back from a re-creation.
func (l *Loop) planBack(ctx context.Context, hash, by string) (remedy.Operation, error) {
	op, err := l.operations().Get(ctx, hash)
	if err != nil {
		return remedy.Operation{}, err
	}
	id, err := cvm.ParseVMID(op.Object)
	if err != nil {
		return remedy.Operation{}, fault.New(fault.Invalid, opPlan, hash, "the plan isn't a re-creation; give the hash of one")
	}
	var current cvm.Fact[cvm.VM]
	vm, err := l.Planning.VM(ctx, id)
	switch {
	case err == nil:
		current = cvm.Known(vm)
	case fault.Is(err, fault.NotFound):
		current = cvm.NotThere[cvm.VM]()
	default:
		return remedy.Operation{}, err
	}
	var body []byte
	if current.Known {
		if body, err = l.Planning.VMBody(ctx, id); err != nil {
			return remedy.Operation{}, err
		}
	}
	var disk cvm.Fact[cvm.Disk]
	if source := remedy.OldOSDisk(op); source != "" {
		d, err := l.Planning.Disk(ctx, source)
		switch {
		case err == nil:
			disk = cvm.Known(d)
		case fault.Is(err, fault.NotFound):
			disk = cvm.NotThere[cvm.Disk]()
		default:
			return remedy.Operation{}, err
		}
	}
	return remedy.PlanRecreationBack(op, current, body, disk, l.Policy, l.Now(), by)
}

// doneStep is the outcome record of a step that was done, named by itself or by its
// intent.
func (l *Loop) doneStep(ctx context.Context, name string) (ledger.Record, error) {
	const op = "reading the record of the step that is to be undone"
	chain, seq, ok := ledger.ParseRecordName(strings.TrimSuffix(name, ".json") + ".json")
	if !ok {
		return ledger.Record{}, fault.New(fault.Invalid, op, name, "it isn't a record's name; give <chain>/<number>, as cvmguard vms KEY --records lists them")
	}
	rec, _, hash, err := l.chains().Read(ctx, chain, seq)
	if fault.Is(err, fault.NotFound) {
		return ledger.Record{}, fault.New(fault.NotFound, op, name, "there is no such record; see cvmguard vms KEY --records, or cvmguard operation show HASH for those of a plan's steps")
	}
	if err != nil {
		return ledger.Record{}, err
	}
	if rec.Type == ledger.TypeIntent {
		later, err := l.chains().After(ctx, chain, seq, hash)
		if err != nil {
			return ledger.Record{}, err
		}
		for _, r := range later {
			if r.Record.Type == ledger.TypeOutcome && r.Record.Intent == seq {
				rec = r.Record
				break
			}
		}
	}
	if rec.Type != ledger.TypeOutcome || rec.Outcome == nil || rec.Step == nil {
		return ledger.Record{}, fault.New(fault.Invalid, op, name, "it is a record of type %s without an outcome; give that of a step that was done", rec.Type)
	}
	if rec.Outcome.State != remedy.Done {
		return ledger.Record{}, fault.New(fault.Invalid, op, name, "the step %s is %s: there is nothing to undo", rec.Step.Kind, rec.Outcome.State)
	}
	return rec, nil
}

// subscriptionOf is where an operation on an object belongs. A key's URL names none:
// then it is that of a VM on it.
func (l *Loop) subscriptionOf(ctx context.Context, object string) (string, error) {
	p, err := ledger.PlaceOf(object)
	if err != nil {
		return "", err
	}
	if p.PK != ledger.KeysPartition {
		return p.PK, nil
	}
	sub := ""
	f := ledger.Filter{Equal: map[string]string{ledger.ColKey: strings.ToLower(object)}}
	if err := l.Tables.Query(ctx, ledger.TableVMs, f, func(e ledger.Entity) bool { sub = e.PK; return false }); err != nil {
		return "", fmt.Errorf("looking for a VM on key %q: %w", object, err)
	}
	if sub == "" {
		return "", fault.New(fault.Blocked, opPlan, object, "no VM hangs on the key, so nobody can say to which subscription the operation belongs; put it right by hand")
	}
	return sub, nil
}

// OperationNow is an operation and where it stands.
type OperationNow struct {
	Hash, ID string
	Chain    string
	Op       remedy.Operation
	Plan     remedy.Plan // its steps as they stand
	Code     string
	Text     string
	State    ledger.OperationState
	Held     map[string]time.Time // by SendKey: a step that failed, and when it is tried again
	Failed   map[string]string    // by SendKey: why, as its last outcome says
	Records  map[string]string    // by SendKey: the name of its last outcome's record, as an undo takes it
	Braked   string
}

// OperationNow reads an operation. fault.NotFound: there is no plan of that hash.
func (l *Loop) OperationNow(ctx context.Context, hash string) (OperationNow, error) {
	now, row, err := l.operationNow(ctx, hash)
	if err == nil {
		err = l.howEnded(ctx, row, &now)
	}
	return now, err
}

// maxRecordsRead bounds how many records are read to say how the steps ended.
const maxRecordsRead = 500

// howEnded reads, from the newest record back, the outcomes of the steps that were
// taken: their records, and why those failed that are held.
func (l *Loop) howEnded(ctx context.Context, row ledger.Row, now *OperationNow) error {
	now.Failed, now.Records = map[string]string{}, map[string]string{}
	done, open := map[string]bool{}, map[string]bool{} // the steps whose outcome is looked for
	for _, s := range now.Op.Steps {
		key := ledger.SendKey(s)
		if done[key] = row.Operation.IsDone(s.Number()); done[key] || len(row.Sends[key]) > 0 || !row.Hold[key].IsZero() {
			open[key] = true
		}
	}
	for seq := row.HeadSeq; seq > max(0, row.HeadSeq-maxRecordsRead) && len(open) > 0; seq-- {
		rec, _, _, err := l.chains().Read(ctx, row.Chain(), seq)
		if err != nil {
			return fmt.Errorf("reading how a step of %q ended: %w", row.ID, err)
		}
		if rec.Type != ledger.TypeOutcome || rec.Step == nil || rec.Outcome == nil {
			continue
		}
		key := ledger.SendKey(*rec.Step)
		if !open[key] || done[key] && rec.Outcome.State != remedy.Done {
			continue
		}
		delete(open, key)
		now.Records[key] = strings.TrimSuffix(ledger.RecordName(row.Chain(), seq), ".json")
		if !row.Hold[key].IsZero() {
			now.Failed[key] = rec.Outcome.Error
		}
	}
	return nil
}

func (l *Loop) operationNow(ctx context.Context, hash string) (OperationNow, ledger.Row, error) {
	var row ledger.Row
	hash = strings.ToLower(hash)
	op, err := l.operations().Get(ctx, hash)
	if err != nil {
		return OperationNow{}, row, err
	}
	now := OperationNow{Hash: hash, ID: ledger.OperationID(op.Subscription, hash), Op: op}
	o, err := SharedObject(now.ID)
	if err != nil {
		return now, row, err
	}
	now.Chain = o.Chain()
	row, err = l.readRow(ctx, o)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return now, row, err
	}
	if row.Operation != nil {
		now.State = *row.Operation
	}
	row.Hold = ReleasedHold(row, l.Settings.SlowPace)
	now.Held, now.Braked = row.Hold, row.Braked
	now.Plan = op.Plan(StandingOf(row), l.Policy)
	if st := row.Step; st != nil {
		for i := range now.Plan.Steps {
			if now.Plan.Steps[i].Number() == st.Step.Number() {
				now.Plan.Steps[i].State = remedy.Running
			}
		}
	}
	now.Code, now.Text = DescribeOperation(op, row, l.Policy.Mode(), l.Now())
	return now, row, nil
}

// OperationChain is the key of an operation's records, by its plan's hash.
func (l *Loop) OperationChain(ctx context.Context, hash string) (string, error) {
	op, err := l.operations().Get(ctx, hash)
	if err != nil {
		return "", err
	}
	o, err := SharedObject(ledger.OperationID(op.Subscription, hash))
	return o.Chain(), err
}

// Operations gives at most `most` of the operations that were planned, in the order
// of their chains' keys, from the one that comes after a key ("": from the first).
// next is the key to go on from, "" at the end. One whose plan or row can't be used
// is there too, and its state says why; only what passes by itself is an error.
func (l *Loop) Operations(ctx context.Context, after string, most int) (list []OperationNow, next string, err error) {
	var found []OperationNow
	f := ledger.Filter{Equal: map[string]string{ledger.ColShared: string(cvm.SharedOperation)}}
	err = l.Tables.Query(ctx, ledger.TableShared, f, func(e ledger.Entity) bool {
		now := OperationNow{ID: e.Cols[ledger.ColID], Chain: ledger.ChainKey(e.PK, e.RK)}
		if now.Chain > after {
			found = append(found, now)
		}
		return len(found) <= most
	})
	if err != nil {
		return nil, "", fmt.Errorf("looking for operations: %w", err)
	}
	if len(found) > most {
		found = found[:most]
		next = found[most-1].Chain
	}
	for _, now := range found {
		_, hash, err := ledger.ParseOperationID(now.ID)
		if err == nil {
			now.Hash = hash
			var read OperationNow
			if read, _, err = l.operationNow(ctx, hash); err == nil {
				now = read
			}
			now.Op = read.Op // where it is the row that can't be read
		}
		switch {
		case err == nil:
		case retryable(err):
			return nil, "", err
		case planLost(err) && now.Op.Schema == "":
			now.Code, now.Text = OperationMissing, textMissing+" Make the plan anew. ("+err.Error()+")"
		default:
			now.Code, now.Text = OperationUnreadable, "Where it stands can't be read: "+err.Error()
		}
		list = append(list, now)
	}
	return list, next, nil
}

// Retry is when a step that failed is tried again, zero for any other.
func (n OperationNow) Retry(s remedy.Step) time.Time { return n.Held[ledger.SendKey(s)] }
