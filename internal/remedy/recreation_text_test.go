package remedy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func TestOptionsThatCannotBeMeantAreRefused(t *testing.T) {
	for name, o := range map[string]RecreationOptions{
		"image": {Image: "Canonical"}, "image with a line's end": {Image: "a:b:c\nresource x 'y' = {}"}, "image of another type": {Image: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/disks/d"},
		"size": {Size: "Standard D4'"}, "set": {DES: "des-cvm"},
	} {
		s := newSite(t)
		d := document(t, "enforce")
		in := s.input(t, d, RecreationOptions{})
		in.Options = o
		if _, err := PlanRecreation(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want it refused as invalid", name, err)
		}
	}
	for _, image := range []string{"Canonical:ubuntu-24_04-lts:cvm", "Canonical:ubuntu-24_04-lts:cvm:24.04.202505010",
		"/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/x/images/i/versions/1.0.0", "/CommunityGalleries/x-1/Images/i/Versions/latest"} {
		if err := (RecreationOptions{Image: image}).check(); err != nil {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// What a VM has and the new one doesn't get is told, whatever it is called.
func TestWhatIsLostIsTold(t *testing.T) {
	s := newSite(t)
	props := inner(s.body, "properties")
	props["additionalCapabilities"] = object{"hibernationEnabled": true, "ultraSSDEnabled": false}
	props["priority"], props["billingProfile"] = "Spot", object{"maxPrice": 0.0321}
	props["availabilitySet"] = object{"id": "/x/availabilitySets/av1"}
	inner(props, "storageProfile")["diskControllerType"] = "NVMe"
	inner(inner(props, "storageProfile"), "osDisk")["diskSizeGB"] = 256.0
	props["somethingNew"] = object{"on": true}
	s.show(t, powerDeallocated)
	s.vm.PrincipalID = "p-1"
	op, err := PlanRecreation(s.input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	told := strings.Join(append(op.Lost, op.Notes...), "\n")
	for _, want := range []string{"additionalCapabilities.hibernationEnabled, somethingNew.on.", "principal p-1", "az role assignment list --assignee p-1", "256 GB", "Azure Backup", "locks, policy exemptions",
		"availability set (av1)", "spot VM", "NVMe", "the new one runs once it is created"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q isn't told:\n%s", want, told)
		}
	}
	text, err := RecreationBicep(op)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "maxPrice: json('0.0321')") {
		t.Errorf("a fraction isn't Bicep:\n%s", text)
	}
}

// A list in a PATCH takes the old one's place: only deleteOption may change in it.
func TestKeepingPartsChangesNothingElse(t *testing.T) {
	s := newSite(t)
	op, err := PlanRecreation(s.input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	before, err := canonical(dataDisk(s))
	if err != nil {
		t.Fatal(err)
	}
	var patch object
	if err := json.Unmarshal([]byte(op.Steps[1].Args[argBody]), &patch); err != nil {
		t.Fatal(err)
	}
	kept := at(patch, "properties", "storageProfile", "dataDisks").([]any)[0].(object)
	if kept["deleteOption"] != "Detach" {
		t.Errorf("the disk doesn't stay: %v", kept)
	}
	delete(kept, "deleteOption")
	if after, err := canonical(kept); err != nil || after != before {
		t.Errorf("the data disk's entry becomes %s, was %s (%v)", after, before, err)
	}
}

func TestTagsAreNeverBicepOfTheirOwn(t *testing.T) {
	var b strings.Builder
	writeBicep(&b, object{"for": "${x}", "a b": "it's", "null": "1", "plain": "\n"}, "")
	for _, want := range []string{`  'for': '\${x}'`, `  'a b': 'it\'s'`, `  'null': '1'`, `  plain: '\n'`} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("%q isn't in\n%s", want, b.String())
		}
	}
}

// The script may be run again at any point: it takes the old VM away and never the
// new one.
func TestTheScriptMayBeRunAgain(t *testing.T) {
	s := newSite(t)
	s.body["tags"] = object{"it's": "$(touch pwned)"}
	op, err := PlanRecreation(s.input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	commands, err := RecreationCommands(op, "recreate.bicep")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	// A stand-in for the CLI: it logs what it is asked, and knows one VM.
	write("az", `#!/bin/sh
echo "$*" >> log
case "$1 $2" in
"vm show") case "$*" in *storageProfile*) cat attached;; *) cat vm 2>/dev/null || exit 3;; esac;;
"vm delete") rm -f vm;;
"deployment group") echo new-one > vm;;
esac
`)
	write("vm", "11111111-1111-1111-1111-111111111111\n")
	attached := fmt.Sprintf("%s\n1=%s\n/subscriptions/x/NIC1\n", osID, data0ID)
	run := func(refused ...string) string {
		cmd := exec.CommandContext(t.Context(), "sh")
		cmd.Stdin, cmd.Dir, cmd.Env = strings.NewReader(RecreationScript(commands)), dir, append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if (err != nil) != (len(refused) > 0) || len(refused) > 0 && !strings.Contains(string(out), refused[0]) {
			t.Fatalf("%v, want a refusal that says %q: %s", err, refused, out)
		}
		log, err := os.ReadFile(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		write("log", "")
		return string(log)
	}
	for name, text := range map[string]string{"a disk more": attached + "2=/subscriptions/x/new\n", "a disk less": string(osID) + "\n/subscriptions/x/nic1\n",
		"another LUN": strings.Replace(attached, "1=", "3=", 1), "unread": ""} {
		write("attached", text)
		if log := run("aren't those of the plan; plan again"); strings.Contains(log, "rest --method patch") || strings.Contains(log, "vm deallocate") || strings.Contains(log, "vm delete") {
			t.Errorf("%s: the VM is changed all the same: %s", name, log)
		}
	}
	write("attached", attached)
	if log := run(); !strings.Contains(log, "vm delete") || !strings.Contains(log, "deployment group create") || strings.Index(log, "vm delete") > strings.Index(log, "deployment group") {
		t.Errorf("the first run: %s", log)
	}
	if log := run(); strings.Contains(log, "vm delete") || strings.Contains(log, "deallocate") || !strings.Contains(log, "deployment group create") {
		t.Errorf("the second run: %s", log)
	}
	if err := os.Remove(filepath.Join(dir, "vm")); err != nil { // as after a creation that failed
		t.Fatal(err)
	}
	if log := run(); strings.Contains(log, "vm delete") || !strings.Contains(log, "deployment group create") {
		t.Errorf("the run without a VM: %s", log)
	}
	if _, err := os.Stat(filepath.Join(dir, "pwned")); err == nil {
		t.Error("a tag's value was run")
	}
}

func TestThereIsNoWayBackToADiskThatIsGone(t *testing.T) {
	s := newSite(t)
	d := document(t, "enforce")
	op, err := PlanRecreation(s.input(t, d, RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	made := s.vm
	made.UniqueID = "22222222-2222-2222-2222-222222222222"
	body, err := s.VMBody(t.Context(), vmID)
	if err != nil {
		t.Fatal(err)
	}
	for name, disk := range map[string]cvm.Fact[cvm.Disk]{"gone": cvm.NotThere[cvm.Disk](), "unread": {}, "attached": cvm.Known(cvm.Disk{ID: osID, ManagedBy: "/other"})} {
		if _, err := PlanRecreationBack(op, cvm.Known(made), body, disk, d, testNow, "me"); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "the new VM is left as it is") {
			t.Errorf("%s: %v", name, err)
		}
	}
	back, err := PlanRecreationBack(op, cvm.Known(made), body, cvm.Known(cvm.Disk{ID: osID}), d, testNow, "me")
	if err != nil {
		t.Fatal(err)
	}
	// It goes after the plan was made: the new VM isn't deleted.
	s.vm.UniqueID, s.vm.Power = made.UniqueID, powerDeallocated
	inner(inner(inner(s.body, "properties"), "storageProfile"), "osDisk")["deleteOption"] = "Detach"
	inner(at(s.body, "properties", "networkProfile", "networkInterfaces").([]any)[0].(object), "properties")["deleteOption"] = "Detach"
	dataDisk(s)["deleteOption"] = "Detach"
	delete(s.disks, osID)
	a := s.applier(d)
	a.Azure = s
	if p := drive(t, s.world, a, back.Steps[3], false); p.State != Refused || !strings.Contains(p.Err.Error(), "is gone") {
		t.Errorf("%s: %v", p.State, p.Err)
	}
}
