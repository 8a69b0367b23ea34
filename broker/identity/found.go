package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/tailrace/tailrace/internal/model"
)

// FounderOptions connect founding to the rest of a node.
type FounderOptions struct {
	Dir    *Dir
	Expect int
	// Candidates returns the other nodes that gossip shows alive.
	Candidates func() []Candidate
	// Ask fetches the vote of another node (transport key Found).
	Ask func(ctx context.Context, c Candidate) (answer []byte, err error)
	// Report is told when the reason to wait or to refuse changes.
	Report func(Decision)
	// Interval between rounds; default 200 ms. A set of candidates is
	// accepted only after it was seen unchanged in two rounds.
	Interval time.Duration
}

// Found runs founding, or joining, until the node durably belongs to a cluster
// or ctx ends. The same call serves every restart: it returns at once where the
// directory has a cluster id.
func Found(ctx context.Context, o FounderOptions) (cluster string, err error) {
	if o.Interval == 0 {
		o.Interval = 200 * time.Millisecond
	}
	votes := make(map[model.StorageID]Vote)
	var last Decision
	for {
		d, err := foundStep(ctx, &o, votes, last)
		if err != nil {
			return "", err
		}
		if n := o.Dir.Node(); n.Cluster != "" {
			return n.Cluster, nil
		}
		if o.Report != nil && d.Reason != "" && d.Reason != last.Reason {
			o.Report(d)
		}
		last = d
		select {
		case <-time.After(o.Interval):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// foundStep asks for votes, decides once and carries the decision out.
func foundStep(ctx context.Context, o *FounderOptions, votes map[model.StorageID]Vote, last Decision) (Decision, error) {
	self := o.Dir.Node()
	candidates := o.Candidates()
	if self.Cluster == "" {
		maps.Copy(votes, askAll(ctx, o, candidates))
	}
	forgetGone(votes, candidates, self.Founders)
	d := Decide(View{Self: self, Expect: o.Expect, Candidates: candidates, Votes: votes})
	switch d.Action {
	case Accept:
		if o.Expect > 1 && (last.Action != Accept || !sameSet(last.Founders, d.Founders)) {
			return d, nil // not seen twice yet
		}
		return d, o.Dir.Accept(d.Founders)
	case Join:
		return d, o.Dir.SetCluster(d.Cluster)
	}
	return d, nil
}

// forgetGone drops votes of nodes that are neither candidates nor founders.
func forgetGone(votes map[model.StorageID]Vote, candidates []Candidate, founders []Founder) {
	keep := make(map[model.StorageID]bool, len(candidates)+len(founders))
	for _, c := range candidates {
		keep[c.Storage] = true
	}
	for _, f := range founders {
		keep[f.Storage] = true
	}
	maps.DeleteFunc(votes, func(id model.StorageID, _ Vote) bool { return !keep[id] })
}

// askAll fetches the votes of all candidates at once; who does not answer is
// asked again in the next round.
func askAll(ctx context.Context, o *FounderOptions, candidates []Candidate) map[model.StorageID]Vote {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	votes := make(map[model.StorageID]Vote, len(candidates))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, c := range candidates {
		wg.Go(func() {
			v, err := ask(ctx, o, c)
			if err != nil {
				return // no vote this round
			}
			mu.Lock()
			defer mu.Unlock()
			votes[c.Storage] = v
		})
	}
	wg.Wait()
	return votes
}

func ask(ctx context.Context, o *FounderOptions, c Candidate) (Vote, error) {
	b, err := o.Ask(ctx, c)
	if err != nil {
		return Vote{}, err
	}
	var a voteAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return Vote{}, fmt.Errorf("vote of broker %d: %w", c.Broker, err)
	}
	if a.Founder != c.Founder {
		return Vote{}, fmt.Errorf("broker %d answers at the address of broker %d", a.Broker, c.Broker)
	}
	return a.Vote, nil
}

type voteAnswer struct {
	Founder
	Vote Vote `json:"vote"`
}

// Answer returns this node's durable vote, for the handler of transport key
// Found.
func Answer(d *Dir, expect int) ([]byte, error) {
	n := d.Node()
	return json.Marshal(voteAnswer{n.founder(), Vote{Founders: n.Founders, Cluster: n.Cluster, Expect: expect}})
}
