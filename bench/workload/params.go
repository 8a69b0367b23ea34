// Package workload holds what can be measured: each workload prepares a
// target, then runs one round at a time, so that rounds of several targets
// can alternate.
package workload

import (
	"fmt"
	"time"

	"github.com/tailrace/tailrace/bench/report"
)

// Params are the settings of a run. A workload uses those that concern it.
type Params struct {
	Acks        string
	RecordSize  int
	BatchBytes  int
	Linger      time.Duration
	Compression string
	Keys        int // distinct keys; 0: no key
	Partitions  int
	Producers   int
	Consumers   int
	Rate        float64 // records/s; 0: as fast as it goes
	Replication int
	MinInSync   int
	SyncSet     int
	Followers   bool // consumers read from the replicas of their racks

	Duration time.Duration // measured window of a round
	Warmup   time.Duration // load before the window, in every round
	First    time.Duration // load on each target before the first round
	Rounds   int

	Preload     int64 // bytes that a catch-up reads
	Mode        string
	Kills       int
	Counts      []int // partitions or connections, one line each
	HistoryFile string
	SlowSync    time.Duration // latency: how much longer each sync of one follower takes; 0: no such follower
}

// Validate refuses what cannot be run.
func (p *Params) Validate() error {
	switch {
	case p.RecordSize < headerSize:
		return fmt.Errorf("record size %d: at least %d bytes, they carry the time of sending", p.RecordSize, headerSize)
	case p.RecordSize > 100<<20:
		return fmt.Errorf("record size %d: at most 100 MiB", p.RecordSize)
	case p.Partitions < 1, p.Producers < 1, p.Consumers < 0, p.Rounds < 1:
		return fmt.Errorf("partitions, producers and rounds must be at least 1")
	case p.Duration <= 0:
		return fmt.Errorf("the window must be longer than 0")
	case p.Rate < 0:
		return fmt.Errorf("the rate must not be negative")
	}
	return nil
}

// List returns the settings for the report.
func (p *Params) List() []report.Param {
	rate := "unlimited"
	if p.Rate > 0 {
		rate = fmt.Sprintf("%g records/s", p.Rate)
	}
	sync := "default"
	if p.SyncSet > 0 {
		sync = fmt.Sprint(p.SyncSet)
	}
	return []report.Param{
		{Name: "acks", Value: p.Acks}, {Name: "record size", Value: fmt.Sprint(p.RecordSize)}, {Name: "batch", Value: fmt.Sprint(p.BatchBytes)},
		{Name: "linger", Value: p.Linger.String()}, {Name: "compression", Value: p.Compression}, {Name: "keys", Value: fmt.Sprint(p.Keys)},
		{Name: "partitions", Value: fmt.Sprint(p.Partitions)}, {Name: "producers", Value: fmt.Sprint(p.Producers)}, {Name: "consumers", Value: fmt.Sprint(p.Consumers)},
		{Name: "rate", Value: rate}, {Name: "sync.replicas", Value: sync},
		{Name: "window", Value: p.Duration.String()}, {Name: "warm-up", Value: p.Warmup.String()}, {Name: "rounds", Value: fmt.Sprint(p.Rounds)},
	}
}
