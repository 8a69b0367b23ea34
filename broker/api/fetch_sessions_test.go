package api

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/tailrace/tailrace/internal/clock"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/partition"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sessionScript runs the session state machine from text (KIP-227). Session ids
// are random; the script knows them as s1, s2, … in order of appearance.
type sessionScript struct {
	t     *testing.T
	b     *fakeBackend
	c     *client
	clock *clock.Manual
	ids   map[int32]string
	names map[string]int32
	conn  *fakeConn
	req   *kmsg.FetchRequest
}

func TestFetchSessions(t *testing.T) {
	datadriven.Walk(t, "testdata/fetch_sessions", func(t *testing.T, path string) {
		var s *sessionScript
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "server" {
				s = newSessionScript(t, d)
				return "ok\n"
			}
			s.t, s.c.t = t, t
			return s.run(d)
		})
	})
}

func newSessionScript(t *testing.T, d *datadriven.TestData) *sessionScript {
	slots := 100
	d.MaybeScanArgs(t, "slots", &slots)
	s := &sessionScript{t: t, b: newFakeBackend(), clock: clock.NewManual(time.Unix(0, 0)), ids: map[int32]string{}, names: map[string]int32{"none": 0}}
	s.b.clock = s.clock
	s.b.addTopic("wide", topicID(4), 1, 1000)
	s.c = newTestServer(t, s.b, Options{FetchSessions: slots})
	return s
}

func (s *sessionScript) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "fetch": // [session=s1] [epoch=N] [get=(t:0@5,…)] [forget=(t:0)] [version=N] [max=bytes] [as=broker]
		return s.show(s.request(d), s.c.start(s.request(d)).wait())
	case "park": // the same, but nothing may be there to answer with
		s.req = s.request(d)
		s.req.MaxWaitMillis = 1000
		s.conn = s.c.start(s.req)
		eventually(s.t, "parked", func() bool { return s.c.parked() == 1 })
		return "parked\n"
	case "answer": // of the parked fetch
		return s.show(s.req, s.conn.wait())
	case "put": // at=(t:0,…) n=records
		var n int
		d.ScanArgs(s.t, "n", &n)
		for _, p := range parseParts(strings.Join(d.CmdArgs[0].Vals, ",")) {
			s.b.replica(p.topic, p.partition).put(n)
		}
		return "ok\n"
	case "break": // a partition answers with an error from now on
		for _, p := range parseParts(strings.Join(d.CmdArgs[0].Vals, ",")) {
			r := s.b.replica(p.topic, p.partition)
			r.mu.Lock()
			r.err = kerr.NotLeaderForPartition.Code
			r.mu.Unlock()
			r.notify(partition.RoleChanged)
		}
		return "ok\n"
	case "later":
		var seconds int
		d.ScanArgs(s.t, "seconds", &seconds)
		s.clock.Advance(time.Duration(seconds) * time.Second)
		return "ok\n"
	case "reads": // since the last time
		return fmt.Sprintf("%d reads\n", s.reads())
	case "watchers":
		n := 0
		for _, r := range s.b.replicas {
			_, _, w := r.(*fakeReplica).counts()
			n += w
		}
		return fmt.Sprintf("%d watchers, %d sessions\n", n, len(s.c.s.sessions.byID))
	}
	s.t.Fatalf("unknown command %s", d.Cmd)
	return ""
}

func (s *sessionScript) reads() (n int) {
	for _, r := range s.b.replicas {
		f := r.(*fakeReplica)
		f.mu.Lock()
		n += f.reads
		f.reads = 0
		f.mu.Unlock()
	}
	return n
}

func (s *sessionScript) request(d *datadriven.TestData) *kmsg.FetchRequest {
	session, epoch, version, max, as, get, forget := "none", 0, 13, 1<<20, 0, "", ""
	d.MaybeScanArgs(s.t, "session", &session)
	d.MaybeScanArgs(s.t, "epoch", &epoch)
	d.MaybeScanArgs(s.t, "version", &version)
	d.MaybeScanArgs(s.t, "max", &max)
	d.MaybeScanArgs(s.t, "as", &as)
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "get":
			get = strings.Join(arg.Vals, ",")
		case "forget":
			forget = strings.Join(arg.Vals, ",")
		}
	}
	id, ok := s.names[session]
	if !ok {
		id = 1<<31 - 1
	}
	req := fetchRequest(int16(version), id, int32(epoch), parseParts(get)...)
	req.MaxBytes = int32(max)
	for _, p := range parseParts(forget) {
		req.ForgottenTopics = append(req.ForgottenTopics, kmsg.FetchRequestForgottenTopic{Topic: p.topic, TopicID: testTopicIDs[p.topic], Partitions: []int32{p.partition}})
	}
	s.c.peer.Internal, s.c.peer.Broker = as > 0, int32(as)
	if as > 0 {
		req.ReplicaID, req.ReplicaState.ID = int32(as), int32(as)
	}
	return req
}

// parseParts reads "t:0@5,t:1@0"; a range "wide:0-999@0" is many.
func parseParts(text string) (parts []fetchPart) {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		topic, rest, _ := strings.Cut(word, ":")
		where, at, _ := strings.Cut(rest, "@")
		lo, hi, isRange := strings.Cut(where, "-")
		if !isRange {
			hi = lo
		}
		var from, to int32
		var offset int64
		fmt.Sscan(lo, &from)
		fmt.Sscan(hi, &to)
		fmt.Sscan(at, &offset)
		for p := from; p <= to; p++ {
			parts = append(parts, fetchPart{topic, p, offset})
		}
	}
	return parts
}

func (s *sessionScript) show(req *kmsg.FetchRequest, a answer) string {
	resp := s.c.decode(req, a).(*kmsg.FetchResponse)
	var out strings.Builder
	if resp.ErrorCode != 0 {
		return fmt.Sprintf("%s\n", kerr.ErrorForCode(resp.ErrorCode).(*kerr.Error).Message)
	}
	fmt.Fprintf(&out, "session %s:", s.name(resp.SessionID))
	names := map[model.TopicID]string{}
	for name, id := range testTopicIDs {
		names[id] = name
	}
	var lines []string
	for _, topic := range resp.Topics {
		name := topic.Topic
		if req.Version >= 13 {
			name = names[topic.TopicID]
		}
		for _, p := range topic.Partitions {
			line := fmt.Sprintf("%s:%d", name, p.Partition)
			switch {
			case p.ErrorCode != 0:
				line += " " + kerr.ErrorForCode(p.ErrorCode).(*kerr.Error).Message
			default:
				line += fmt.Sprintf(" batches=%d hw=%d", len(p.RecordBatches)/len(oneBatch(1)), p.HighWatermark)
			}
			lines = append(lines, line)
		}
	}
	if len(lines) > 10 {
		fmt.Fprintf(&out, " %d partitions\n", len(lines))
		return out.String()
	}
	sort.Strings(lines)
	if len(lines) == 0 {
		out.WriteString(" nothing")
	}
	out.WriteString("\n")
	for _, l := range lines {
		out.WriteString("  " + l + "\n")
	}
	return out.String()
}

func (s *sessionScript) name(id int32) string {
	if id == 0 {
		return "none"
	}
	if s.ids[id] == "" {
		s.ids[id] = fmt.Sprintf("s%d", len(s.ids)+1)
		s.names[s.ids[id]] = id
	}
	return s.ids[id]
}
