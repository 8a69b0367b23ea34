package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tailrace/tailrace/broker/control"
)

var errTest = errors.New("for the test")

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func update(index uint64) control.Update {
	return control.Update{Next: &control.Image{Index: index}}
}

// running runs f until the test ends.
func running(t *testing.T, f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestApplierKeepsOrderAndReportsProgress(t *testing.T) {
	var got []uint64
	var after atomic.Int64
	hold := make(chan struct{})
	a := newApplier(4, func(u control.Update) error {
		<-hold
		got = append(got, u.Next.Index)
		return nil
	}, func(control.Update) { after.Add(1) }, func(err error) { t.Error(err) })
	running(t, a.run)
	if err := a.wait(t.Context(), 4); err != nil {
		t.Errorf("the index at the start: %v", err)
	}
	for i := uint64(5); i <= 40; i++ {
		a.add(update(i)) // never blocks, also while the disk does
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.wait(short, 40); !errors.Is(err, context.Canceled) {
		t.Errorf("wait with an ended context: %v", err)
	}
	if n := a.applied(); n != 4 {
		t.Errorf("applied %d while the first update is on its way", n)
	}
	close(hold)
	if err := a.wait(t.Context(), 40); err != nil {
		t.Fatal(err)
	}
	if len(got) != 36 || !slices.IsSorted(got) {
		t.Errorf("applied %v", got)
	}
	a.advance(3)
	if n := a.applied(); n != 40 {
		t.Errorf("went back to %d", n)
	}
	eventually(t, "a call after each", func() bool { return after.Load() == 36 })
}

// An update that cannot be applied is the end: nothing after it is applied.
func TestApplierStopsAtAnError(t *testing.T) {
	var applied atomic.Int64
	fatal := make(chan error, 1)
	a := newApplier(0, func(u control.Update) error {
		if u.Next.Index == 2 {
			return errTest
		}
		applied.Add(1)
		return nil
	}, func(control.Update) {}, func(err error) { fatal <- err })
	for i := uint64(1); i <= 3; i++ {
		a.add(update(i))
	}
	a.run(t.Context()) // returns by itself
	if err := <-fatal; !errors.Is(err, errTest) || applied.Load() != 1 || a.applied() != 1 {
		t.Errorf("fatal %v, %d applied, index %d", err, applied.Load(), a.applied())
	}
}

// Whatever is appended during a commit makes up one more, however often it was
// said.
func TestSyncerGroups(t *testing.T) {
	var commits atomic.Int64
	begun, hold := make(chan struct{}, 10), make(chan struct{})
	s := newSyncer(func() error {
		begun <- struct{}{}
		<-hold
		commits.Add(1)
		return nil
	}, func(err error) { t.Error(err) })
	running(t, s.run)
	s.Dirty()
	<-begun
	for range 1000 {
		s.Dirty()
	}
	hold <- struct{}{}
	<-begun
	hold <- struct{}{}
	eventually(t, "two commits", func() bool { return commits.Load() == 2 })
	select {
	case <-begun:
		t.Error("a third commit, of nothing")
	case <-time.After(20 * time.Millisecond):
	}
}

func TestSyncerStopsAtAnError(t *testing.T) {
	var n int
	var fatal error
	s := newSyncer(func() error { n++; return errTest }, func(err error) { fatal = err })
	s.Dirty()
	s.run(t.Context()) // returns by itself
	s.Dirty()
	if n != 1 || !errors.Is(fatal, errTest) {
		t.Errorf("%d commits, fatal %v", n, fatal)
	}
}

func TestProducerIDsAreUnique(t *testing.T) {
	var p producerIDs
	var blocks atomic.Int64
	reserve := func() (int64, int32, error) { return 1000 * blocks.Add(1), 10, nil }
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				id, err := p.take(reserve)
				mu.Lock()
				if err != nil || seen[id] || id%1000 >= 10 {
					t.Errorf("id %d, %v", id, err)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 200 || blocks.Load() != 20 {
		t.Errorf("%d ids of %d blocks", len(seen), blocks.Load())
	}
}

// A block that is no block gives no ids, and the next attempt asks again.
func TestProducerIDsOfBadBlocks(t *testing.T) {
	var p producerIDs
	for _, bad := range []func() (int64, int32, error){
		func() (int64, int32, error) { return 0, 0, errTest },
		func() (int64, int32, error) { return 5, 0, nil },
		func() (int64, int32, error) { return -1, 10, nil },
	} {
		if id, err := p.take(bad); err == nil {
			t.Errorf("id %d", id)
		}
	}
	if id, err := p.take(func() (int64, int32, error) { return 7, 1, nil }); id != 7 || err != nil {
		t.Errorf("id %d, %v", id, err)
	}
}

func TestOnDemandRunsAfterEachWake(t *testing.T) {
	wake, ran := make(chan struct{}, 1), make(chan struct{})
	var calls atomic.Int64
	running(t, func(ctx context.Context) {
		onDemand(ctx, time.Millisecond, wake, func() {
			if calls.Add(1) == 1 {
				wake <- struct{}{} // there is more to do already
			}
			select {
			case ran <- struct{}{}:
			case <-ctx.Done():
			}
		})
	})
	if n := calls.Load(); n != 0 {
		t.Fatalf("%d calls without a wake", n)
	}
	wake <- struct{}{}
	<-ran
	<-ran
	wake <- struct{}{}
	<-ran
	if n := calls.Load(); n != 3 {
		t.Fatalf("%d calls after three wakes", n)
	}
}
