package partition

import "testing"

// What the cluster simulator found, each as the least that shows it.

// A broker that registers again without a restart must report its durable ends
// under the new incarnation, although nothing moved.
func TestRegistrationWithoutRestartReportsAgain(t *testing.T) {
	c := newCluster(t, 3)
	c.elect(1, 1, 2, 3)
	c.node(1).plain(3)
	c.settle()
	f := c.node(2).r
	if _, _, ok := f.DurableReport(); !ok {
		t.Fatal("a confirmed follower has nothing to report")
	}
	was := f.FetchState().Generation
	var eff Effects
	f.Registered(c.node(2).inc+1000, &eff)
	if _, _, ok := f.DurableReport(); ok {
		t.Error("the new incarnation reports before the leader found it matching")
	}
	if f.FetchState().Generation == was {
		t.Error("an answer to the old incarnation's fetch would still be taken")
	}
	f.Registered(c.node(2).inc+1000, &eff) // told twice: nothing changes
}

// Producer state outlives the batches that it came from, at once (I27).
func TestDeletedRecordsKeepProducers(t *testing.T) {
	c := newCluster(t, 3)
	c.elect(1, 1, 2, 3)
	for seq := range int32(4) {
		c.node(1).sequenced(7, 0, seq, 1)
	}
	c.settle()
	var eff Effects
	if code, start := c.node(1).r.DeleteRecords(-1, &eff); code != 0 || start != 4 {
		t.Fatalf("code %d, log start %d", code, start)
	}
	ps, err := loadProducers(c.node(1).r.log, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := ps.byID[7]
	if p == nil || p.lastSequence() != 3 || p.duplicate(3, 3) == nil {
		t.Fatalf("after the deletion the log knows of the producer: %+v", p)
	}
}

// A snapshot that ends below the log start has a hole behind it and says nothing.
func TestSnapshotBelowLogStartIsIgnored(t *testing.T) {
	c := newCluster(t, 3)
	c.elect(1, 1, 2, 3)
	c.node(1).sequenced(7, 0, 0, 1)
	c.settle()
	l := c.node(1).r.log
	old, err := loadProducers(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.SaveProducerSnapshot(1, old.encode())
	for seq := int32(1); seq < 4; seq++ {
		c.node(1).sequenced(7, 0, seq, 1)
	}
	c.settle()
	if err := l.AdvanceStart(3); err != nil { // as retention does, behind the replica's back
		t.Fatal(err)
	}
	ps, err := loadProducers(l, 0)
	if err != nil {
		t.Fatal(err)
	}
	if p := ps.byID[7]; p == nil || p.lastSequence() != 3 || p.count != 1 {
		t.Fatalf("%+v, want what the log from its start on says", p)
	}
}
