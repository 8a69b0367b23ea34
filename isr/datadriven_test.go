package isr

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/tailrace/tailrace/internal/model"
)

// TestRules runs the scripts in testdata, one file per rule. Brokers are small
// numbers; broker n has incarnation 10n unless a script says n:incarnation.
//
//	new [self=1] [inc=10] [end=0] [durable=0] [hw=0]
//	meta leader=1 epoch=1 pepoch=1 isr=(1,2) [replicas=(1,2,3:31!rack)] [min=2] [sync=0] …  unset values are kept; ! is ineligible
//	append N | truncate N | durable N | leaderhw N | reset N
//	fetch B POS | report B END     [epoch=] [inc=]
//	heard B | register INC | stop
//	outcome ID committed|rejected|unknown
//	produce | prefer client= rack= offset= | tick
//
// Every command takes at=DURATION, which moves the time forward. The answer is
// what the command caused, then the state.
func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		sc := &script{}
		datadriven.RunTest(t, path, sc.run)
	})
}

type script struct {
	s    *State
	meta Meta
	now  time.Duration
}

func (sc *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(d.Cmd+" "+argString(d)+"\n"+d.Input), "\n") {
		cmd := parseCmd(t, d.Pos, line)
		var eff Effects
		note := sc.step(t, cmd, &eff)
		fmt.Fprint(&out, note, drawEffects(&eff, sc.s))
	}
	if out.Len() == 0 {
		out.WriteString("nothing\n")
	}
	sc.draw(&out)
	return out.String()
}

func argString(d *datadriven.TestData) string {
	args := make([]string, len(d.CmdArgs))
	for i, a := range d.CmdArgs {
		args[i] = a.Key
		switch {
		case len(a.Vals) == 1:
			args[i] += "=" + a.Vals[0]
		case len(a.Vals) > 1:
			args[i] += "=(" + strings.Join(a.Vals, ",") + ")"
		}
	}
	return strings.Join(args, " ")
}

type cmd struct {
	t    *testing.T
	pos  string
	name string
	args []string
	opts map[string]string
}

func parseCmd(t *testing.T, pos, line string) cmd {
	c := cmd{t: t, pos: pos, opts: map[string]string{}}
	for i, w := range strings.Fields(line) {
		switch k, v, ok := strings.Cut(w, "="); {
		case i == 0:
			c.name = w
		case ok:
			c.opts[k] = strings.Trim(v, "()")
		default:
			c.args = append(c.args, w)
		}
	}
	return c
}

func (c cmd) num(s string) int64 {
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		c.t.Fatalf("%s: %s: %v", c.pos, c.name, err)
	}
	return v
}

func (c cmd) arg(i int) int64 {
	if i >= len(c.args) {
		c.t.Fatalf("%s: %s wants %d arguments", c.pos, c.name, i+1)
	}
	return c.num(c.args[i])
}

func (c cmd) opt(name string, def int64) int64 {
	if v, ok := c.opts[name]; ok {
		return c.num(v)
	}
	return def
}

func (c cmd) dur(name string, def time.Duration) time.Duration {
	v, ok := c.opts[name]
	if !ok {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		c.t.Fatalf("%s: %v", c.pos, err)
	}
	return d
}

func (sc *script) step(t *testing.T, c cmd, eff *Effects) (note string) {
	sc.now = c.dur("at", sc.now)
	progress := func() Progress {
		b := model.BrokerID(c.arg(0))
		return Progress{Broker: b, Incarnation: model.Incarnation(c.opt("inc", int64(b)*10)),
			Epoch: int32(c.opt("epoch", int64(sc.s.Epoch()))), End: c.arg(1), Now: sc.now}
	}
	switch c.name {
	case "new":
		end := c.opt("end", 0)
		sc.s = New(model.BrokerID(c.opt("self", 1)), model.Incarnation(c.opt("inc", 10)), end, c.opt("durable", end), c.opt("hw", 0))
		sc.meta = Meta{MinISR: 2, LagMax: 10 * time.Second, StallMax: 200 * time.Millisecond}
	case "meta":
		sc.applyMeta(c, eff)
	case "append", "truncate":
		sc.s.LogEnd(c.arg(0), sc.now)
	case "durable":
		sc.s.OwnDurable(c.arg(0), eff)
	case "leaderhw":
		sc.s.LeaderHW(c.arg(0), eff)
	case "reset":
		sc.s.Reset(c.arg(0))
	case "fetch":
		if ok, first := sc.s.Fetched(progress()); !ok {
			note = "fetch ignored\n"
		} else if first {
			note = "answer at once\n"
		}
	case "report":
		if !sc.s.FollowerDurable(progress(), eff) {
			note = "report ignored\n"
		}
	case "heard":
		sc.s.HeardFrom(model.BrokerID(c.arg(0)), sc.now)
	case "register":
		sc.s.Registered(model.Incarnation(c.arg(0)), sc.now, eff)
	case "stop":
		sc.s.Stop(eff)
	case "outcome":
		o := map[string]Outcome{"committed": Committed, "rejected": Rejected, "unknown": Unknown}[c.args[1]]
		sc.s.Outcome(uint64(c.arg(0)), o, sc.now, eff)
	case "produce":
		note = fmt.Sprintf("produce: %v\n", sc.s.CanAcceptProduce(sc.now))
	case "prefer":
		note = fmt.Sprintf("preferred: %d\n", sc.s.PreferredReplica(uint64(c.opt("client", 0)), c.opts["rack"], c.opt("offset", 0), sc.now))
	case "tick":
		sc.s.Tick(sc.now, eff)
	default:
		t.Fatalf("%s: unknown command %q", c.pos, c.name)
	}
	return note
}

func (sc *script) applyMeta(c cmd, eff *Effects) {
	m := sc.meta
	m.Index = uint64(c.opt("index", int64(m.Index)+1))
	m.Leader = model.BrokerID(c.opt("leader", int64(m.Leader)))
	m.LeaderIncarnation = model.Incarnation(c.opt("leaderinc", int64(m.Leader)*10))
	m.LeaderEpoch = int32(c.opt("epoch", int64(m.LeaderEpoch)))
	m.PartitionEpoch = int32(c.opt("pepoch", int64(m.PartitionEpoch)))
	m.MinISR = int(c.opt("min", int64(m.MinISR)))
	m.SyncTarget = int(c.opt("sync", int64(m.SyncTarget)))
	m.LagMax = c.dur("lag", m.LagMax)
	m.StallMax = c.dur("stall", m.StallMax)
	if v, ok := c.opts["replicas"]; ok {
		m.Replicas = nil
		for _, w := range strings.Split(v, ",") {
			m.Replicas = append(m.Replicas, c.replica(w))
		}
	}
	if v, ok := c.opts["isr"]; ok {
		m.ISR = nil
		for _, w := range strings.Split(v, ",") {
			m.ISR = append(m.ISR, model.BrokerID(c.num(w)))
		}
	}
	sc.meta = m
	sc.s.ApplyMeta(m, sc.now, eff)
}

// replica reads id[:incarnation][!][@rack].
func (c cmd) replica(w string) ReplicaMeta {
	w, rack, _ := strings.Cut(w, "@")
	w, ineligible := strings.CutSuffix(w, "!")
	id, inc, ok := strings.Cut(w, ":")
	r := ReplicaMeta{Broker: model.BrokerID(c.num(id)), Eligible: !ineligible, Rack: rack}
	r.Incarnation = model.Incarnation(r.Broker) * 10
	if ok {
		r.Incarnation = model.Incarnation(c.num(inc))
	}
	return r
}

func drawEffects(eff *Effects, s *State) string {
	var b strings.Builder
	if eff.Role {
		fmt.Fprintf(&b, "becomes %v, leader %d, epoch %d\n", s.Role(), s.Leader(), s.Epoch())
	}
	if eff.HWMoved {
		fmt.Fprintf(&b, "high watermark → %d\n", s.HighWatermark())
	}
	for _, p := range eff.Proposals {
		fmt.Fprintf(&b, "proposes #%d at %d/%d: in sync", p.ID, p.LeaderEpoch, p.PartitionEpoch)
		for _, m := range p.ISR {
			fmt.Fprintf(&b, " %d@%d", m.Broker, m.Incarnation)
		}
		if len(p.ByPolicy) > 0 {
			fmt.Fprintf(&b, ", by policy without %v", p.ByPolicy)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func (sc *script) draw(b *strings.Builder) {
	s := sc.s
	fmt.Fprintf(b, "-- %v  end %d  durable %d  hw %d", s.Role(), s.End(), s.Durable(), s.HighWatermark())
	if s.Role() == Leader {
		fmt.Fprintf(b, "  epoch start %d", s.EpochStart())
		if !s.Visible() {
			b.WriteString("  not visible")
		}
	}
	fmt.Fprintln(b)
	if s.Role() != Leader {
		return
	}
	for _, p := range s.Peers(nil, sc.now) {
		state := "async  "
		switch {
		case p.InSync && p.Pending:
			state = "in sync, kept in proposal"
		case p.InSync:
			state = "in sync"
		case p.Pending:
			state = "pending"
		}
		fmt.Fprintf(b, "   %d %s", p.Broker, state)
		if p.Fetched {
			fmt.Fprintf(b, "  fetched %d", p.Position)
		}
		if p.Durable >= 0 {
			fmt.Fprintf(b, "  durable %d", p.Durable)
		}
		if p.Behind > 0 {
			fmt.Fprintf(b, "  behind %v", p.Behind)
		}
		fmt.Fprintln(b)
	}
}
