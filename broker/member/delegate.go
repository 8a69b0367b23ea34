package member

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/memberlist"
)

// delegate answers memberlist's callbacks. Most come under memberlist's lock:
// none may block or call back.
type delegate struct{ m *Members }

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(limit int) []byte {
	b, err := d.m.meta.Load().encode()
	if err != nil || len(b) > limit {
		return nil // cannot be: encode was tried before the metadata was set
	}
	return b
}

// NotifyAlive keeps nodes of other clusters, and what is no node of ours at
// all, from becoming members.
func (d *delegate) NotifyAlive(n *memberlist.Node) error { return d.check(n) }

// NotifyMerge refuses to merge with another cluster's gossip.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, n := range peers {
		if err := d.check(n); err != nil {
			return err
		}
	}
	return nil
}

// foreignText finds the other cluster's id in what check says.
var foreignText = regexp.MustCompile(`belongs to cluster "([^"]*)"`)

func (d *delegate) check(n *memberlist.Node) error {
	var theirs Meta
	if err := theirs.decode(n.Meta); err != nil {
		return fmt.Errorf("node %.64q: %w", n.Name, err)
	}
	if mine := d.m.meta.Load(); !compatible(mine.Cluster, theirs.Cluster) {
		return fmt.Errorf("node %.64q belongs to cluster %.64q, not %q", n.Name, theirs.Cluster, mine.Cluster)
	}
	return nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.post(Join, n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.post(Update, n) }

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.post(Leave, n) }

// post notes what memberlist believes of a node, and queues the event.
func (d *delegate) post(k Kind, n *memberlist.Node) {
	o := Member{Addr: n.Address()}
	if o.Meta.decode(n.Meta) != nil {
		return // cannot be: check refuses such nodes
	}
	d.m.mu.Lock()
	if k == Leave {
		delete(d.m.alive, n.Name)
	} else {
		d.m.alive[n.Name] = o
	}
	d.m.others = nil
	d.m.mu.Unlock()
	d.m.postOther(k, o)
}

// postOther queues an event about a node unless it is this one.
func (m *Members) postOther(k Kind, o Member) {
	if !sameNode(m.meta.Load(), &o.Meta) {
		m.post(Event{Kind: k, Meta: o.Meta, Addr: o.Addr, Graceful: k == Leave && o.Leaving})
	}
}

// suspicion is gossiped by the node whose probe failed, so that the controller
// hears of it whoever probed.
type suspicion struct{ name string }

const suspectMessage = 1

// Invalidates implements memberlist.Broadcast.
func (s suspicion) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(suspicion)
	return ok && o == s
}

// Message implements memberlist.Broadcast.
func (s suspicion) Message() []byte { return append([]byte{suspectMessage}, s.name...) }

// Finished implements memberlist.Broadcast.
func (s suspicion) Finished() {}

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(b []byte) {
	if len(b) < 2 || b[0] != suspectMessage {
		return
	}
	d.m.suspected(string(b[1:]))
}

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.m.hints.GetBroadcasts(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// suspected posts a Suspect event for a member of that name.
func (m *Members) suspected(name string) {
	m.mu.Lock()
	o, ok := m.alive[name]
	m.mu.Unlock()
	if ok {
		m.postOther(Suspect, o)
	}
}

// logWriter takes memberlist's log lines. They are quiet: what matters comes as
// events. It also is where memberlist tells of a failed probe: it has no
// callback for that.
type logWriter struct{ m *Members }

// Write implements io.Writer.
func (w *logWriter) Write(line []byte) (int, error) {
	s := string(bytes.TrimSpace(line))
	level, s, _ := strings.Cut(strings.TrimPrefix(s, "["), "] ")
	s = strings.TrimPrefix(s, "memberlist: ")
	if name, ok := suspectName(s); ok {
		w.m.hints.QueueBroadcast(suspicion{name})
		w.m.suspected(name)
	}
	switch level {
	case "ERR", "ERROR":
		w.m.o.Logger.Info().Str("detail", s).Msg("gossip")
	case "WARN", "INFO":
		w.m.o.Logger.Debug().Str("detail", s).Msg("gossip")
	}
	return len(line), nil
}

func suspectName(s string) (string, bool) {
	s, ok := strings.CutPrefix(s, "Suspect ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, " has failed, no acks received")
}
