package sim

import (
	"fmt"
	"reflect"
	"strings"
)

type pair struct{ a, b *int64 }

func (a *Acted) fields(b *Acted) []pair {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	out := make([]pair, va.NumField())
	for i := range out {
		out[i] = pair{va.Field(i).Addr().Interface().(*int64), vb.Field(i).Addr().Interface().(*int64)}
	}
	return out
}

// String lists what acted, and names what did not: a run proves nothing about
// that.
func (a *Acted) String() string {
	var did, never []string
	v := reflect.ValueOf(a).Elem()
	for i := range v.NumField() {
		if name, n := v.Type().Field(i).Name, v.Field(i).Int(); n != 0 {
			did = append(did, fmt.Sprintf("%s=%d", name, n))
		} else {
			never = append(never, name)
		}
	}
	if len(never) > 0 {
		did = append(did, "(never acted, so this run proves nothing about: "+strings.Join(never, ", ")+")")
	}
	return strings.Join(did, " ")
}

// Table is how often each fault, and each mechanism that answers to faults,
// really acted.
func (a *Acted) Table() string {
	rows := []struct {
		what string
		n    int64
	}{
		{"elections of a partition's leader", a.Elections},
		{"truncations", a.Truncations},
		{"records cut by them", a.RecordsCut},
		{"shrinks of an in-sync set", a.Shrinks},
		{"expansions", a.Expands},
		{"swaps of the synchronous follower", a.Swaps},
		{"elections of the metadata quorum", a.QuorumElections},
		{"kills", a.Kills},
		{"power cuts", a.PowerCuts},
		{"power cuts of all machines", a.AllPowerCuts},
		{"crashes in the middle of a disk call", a.CrashPoints},
		{"recoveries of a process", a.Recoveries},
		{"empty disks under an old id", a.Wipes},
		{"disks rolled back to an earlier life", a.RollBacks},
		{"in-sync proposals held until another life", a.LateProposals},
		{"of them refused for the member's incarnation", a.LateRefused},
		{"bits flipped", a.BitFlips},
		{"writes misdirected", a.Misdirected},
		{"torn writes", a.TornWrites},
		{"ranges found damaged", a.Damages},
		{"repairs", a.Repairs},
		{"damaged lone leaders succeeded", a.Successions},
		{"topics deleted", a.TopicDeletions},
		{"partitions added", a.Grown},
		{"produces acknowledged", a.Acks},
	}
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "%10d %s\n", r.n, r.what)
	}
	return b.String()
}
