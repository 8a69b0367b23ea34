package control

import (
	"errors"
	"testing"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// sessions is a controller of three members and brokers.
func sessions(t *testing.T) (*cluster, *Core) {
	c := newCluster(t, 3, CoreOptions{})
	lead := c.elect(c.voters[0])
	for i := 1; i <= 3; i++ {
		c.up(lead, i)
	}
	c.must(lead, &CreateTopics{Topics: []NewTopic{{Name: "t", Partitions: 3, ReplicationFactor: 3}}})
	return c, lead
}

// heartbeat sends one and returns its answer; zero and false if there is none.
func (c *cluster) heartbeat(lead *Core, req HeartbeatRequest) (HeartbeatResponse, bool) {
	var resp HeartbeatResponse
	ok := false
	lead.Heartbeat(req, func(r HeartbeatResponse, err error) { resp, ok = r, err == nil })
	c.settle()
	return resp, ok
}

func current(lead *Core, id model.BrokerID) HeartbeatRequest {
	return HeartbeatRequest{Broker: id, Incarnation: incarnationOf(lead.Image(), id), AppliedIndex: lead.Image().Index}
}

// ticksOf converts a duration to ticks, rounded up.
func ticksOf(d time.Duration) int { return int((d + DefaultTick - 1) / DefaultTick) }

func TestSessionExpiryFences(t *testing.T) {
	c, lead := sessions(t)
	c.beat(lead, ticksOf(DefaultSessionTimeout)-2, 1, 2) // 3 is silent
	if lead.Image().Brokers[3].Fenced {
		t.Fatal("fenced before its session expired: its lease may still be valid")
	}
	c.beat(lead, 4, 1, 2)
	if !lead.Image().Brokers[3].Fenced || lead.Image().Brokers[1].Fenced {
		t.Fatal("the silent broker, and only it, must be fenced")
	}
	// It comes back in the same life: told so, then admitted.
	resp, _ := c.heartbeat(lead, current(lead, 3))
	if !resp.Fenced || resp.LeaseGranted {
		t.Fatalf("a fenced broker got %+v", resp)
	}
	c.beat(lead, 3, 1, 2, 3)
	if lead.Image().Brokers[3].Fenced {
		t.Fatal("the broker was not admitted again")
	}
}

// A broker that has not applied what may have deposed it gets no lease (I15).
func TestLeaseNeedsAppliedMetadata(t *testing.T) {
	c, lead := sessions(t)
	behind := current(lead, 1)
	if resp, _ := c.heartbeat(lead, behind); !resp.LeaseGranted {
		t.Fatalf("no lease: %+v", resp)
	}
	c.must(lead, &DrainBroker{Broker: 1})
	if resp, _ := c.heartbeat(lead, behind); resp.LeaseGranted {
		t.Fatal("a deposed leader got a lease before it applied its deposition")
	}
	if resp, _ := c.heartbeat(lead, HeartbeatRequest{Broker: 1, Incarnation: behind.Incarnation - 1, AppliedIndex: 1 << 40}); !resp.Unknown || resp.LeaseGranted {
		t.Fatalf("another incarnation got %+v", resp)
	}
}

func TestDrainThenStop(t *testing.T) {
	c, lead := sessions(t)
	req := current(lead, 1)
	req.WantDrain = true
	if resp, _ := c.heartbeat(lead, req); resp.MayStop {
		t.Fatal("allowed to stop while it leads")
	}
	c.settle()
	for _, p := range lead.Image().TopicsByName["t"].Partitions {
		if p.Leader == 1 || p.Leader == model.NoBroker {
			t.Fatalf("leadership did not move: %+v", p)
		}
	}
	if resp, _ := c.heartbeat(lead, req); resp.MayStop {
		t.Fatal("allowed to stop before it applied the moves")
	}
	req.AppliedIndex = lead.Image().Index
	if resp, _ := c.heartbeat(lead, req); !resp.MayStop {
		t.Fatal("not allowed to stop")
	}
	req.Stopped = true
	c.heartbeat(lead, req)
	if !lead.Image().Brokers[1].Fenced {
		t.Fatal("a stopped broker is not fenced")
	}
}

func (c *cluster) suspect(lead *Core, id model.BrokerID, e Evidence) {
	c.t.Helper()
	if err := lead.Suspect(Suspicion{Broker: id, Incarnation: incarnationOf(lead.Image(), id), Evidence: e}); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func TestRefusedConnectionFencesAtOnce(t *testing.T) {
	c, lead := sessions(t)
	c.heartbeat(lead, current(lead, 2))
	c.suspect(lead, 2, EvidenceRefused)
	if !lead.Image().Brokers[2].Fenced {
		t.Fatal("not fenced")
	}
	for _, p := range lead.Image().TopicsByName["t"].Partitions {
		if p.Leader == 2 {
			t.Fatal("the election is not in the same batch")
		}
	}
	// Evidence about an earlier life does not hit the next one.
	old := incarnationOf(lead.Image(), 2)
	c.up(lead, 2)
	if err := lead.Suspect(Suspicion{Broker: 2, Incarnation: old, Evidence: EvidenceRefused}); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if lead.Image().Brokers[2].Fenced {
		t.Fatal("evidence about an earlier incarnation fenced the new one")
	}
}

// Silence fences only when the lease is over, and nobody vouches for it.
func TestSilence(t *testing.T) {
	c, lead := sessions(t)
	c.beat(lead, 2*ticksOf(DefaultLease), 1, 2, 3)
	c.suspect(lead, 3, EvidenceSilence)
	c.beat(lead, ticksOf(DefaultLease)-2, 1, 2)
	if lead.Image().Brokers[3].Fenced {
		t.Fatal("fenced while its lease may be valid")
	}
	c.beat(lead, 4, 1, 2)
	if !lead.Image().Brokers[3].Fenced {
		t.Fatal("not fenced after its lease")
	}
}

func TestPeersVetoSilence(t *testing.T) {
	c, lead := sessions(t)
	c.heartbeat(lead, current(lead, 3))
	for range ticksOf(DefaultSessionTimeout) - 2 {
		c.suspect(lead, 3, EvidenceSilence)
		c.suspect(lead, 3, EvidenceAlive)
		c.beat(lead, 1, 1, 2)
	}
	if lead.Image().Brokers[3].Fenced {
		t.Fatal("gossip fenced a broker that its peers vouch for")
	}
}

// A heartbeat clears suspicion: false gossip, however often, only costs what
// the session costs anyway (I17).
func TestFalseGossipIsHarmless(t *testing.T) {
	c, lead := sessions(t)
	for range 3 * ticksOf(DefaultSessionTimeout) {
		for id := model.BrokerID(1); id <= 3; id++ {
			c.suspect(lead, id, EvidenceSilence)
			if lead.Image().Brokers[id].Fenced { // now: a fenced broker is soon admitted again
				t.Fatalf("broker %d was fenced by gossip", id)
			}
		}
		c.beat(lead, 1, 1, 2, 3)
		for _, b := range lead.Image().SortedBrokers() {
			if b.Fenced {
				t.Fatalf("broker %d was fenced by gossip", b.ID)
			}
		}
	}
}

// A controller that was itself paused blames nobody for silence.
func TestPausedControllerFencesNobody(t *testing.T) {
	c, lead := sessions(t)
	c.beat(lead, 2, 1, 2, 3)
	c.now += 10 * time.Second
	c.tick(1)
	for _, b := range lead.Image().SortedBrokers() {
		if b.Fenced {
			t.Fatalf("broker %d was fenced after the controller's own pause", b.ID)
		}
	}
}

// A new controller knows no sessions and no reports: it gives every broker a
// session, asks for reports where an election needs them, and no lease before
// the broker is at its image.
func TestNewControllerAsksForReports(t *testing.T) {
	c, lead := sessions(t)
	for id := model.BrokerID(1); id <= 3; id++ {
		c.must(lead, &FenceBroker{Broker: id, Reason: FenceRefused})
	}
	lead = c.elect(c.voters[1])
	c.tick(4)
	resp, ok := c.heartbeat(lead, current(lead, 3))
	if !ok || !resp.NeedReport || !resp.Fenced {
		t.Fatalf("got %+v", resp)
	}
	c.must(lead, &ReportLogs{Broker: 3, Incarnation: incarnationOf(lead.Image(), 3), Last: true})
	c.beat(lead, 3, 3)
	if lead.Image().Brokers[3].Fenced {
		t.Fatal("not admitted after its report")
	}
}

func TestFollowerRefusesHeartbeats(t *testing.T) {
	c, _ := sessions(t)
	var got error
	c.cores[c.voters[2]].Heartbeat(HeartbeatRequest{Broker: 1}, func(_ HeartbeatResponse, err error) { got = err })
	if !errors.Is(got, ErrNotController) {
		t.Fatalf("got %v", got)
	}
}
