package sim

import (
	"errors"
	"math/rand/v2"
	"time"
)

var (
	errTimeout = errors.New("sim: no answer in time")
	errRefused = errors.New("sim: connection refused")
)

// network joins the brokers and one more end, where the clients are. Each
// direction of each link has its own state, so a cut may be one-way.
type network struct {
	w     *world
	rng   *rand.Rand
	links [][]link // [from][to]
}

// link is one direction.
type link struct {
	cut   bool
	slow  time.Duration // added to every message
	loss  float64
	dup   float64
	spike float64 // share of messages that take very long: they arrive after later ones
}

func newNetwork(w *world) *network {
	n := w.cfg.Brokers + 1
	nw := &network{w: w, rng: w.stream(1), links: make([][]link, n)}
	for i := range nw.links {
		nw.links[i] = make([]link, n)
		for j := range nw.links[i] {
			nw.links[i][j] = link{loss: 0.001, dup: 0.002, spike: 0.003}
		}
	}
	return nw
}

func (nw *network) clients() int { return len(nw.links) - 1 }

// calm ends every disturbance.
func (nw *network) calm() {
	for i := range nw.links {
		for j := range nw.links[i] {
			nw.links[i][j] = link{}
		}
	}
}

func (nw *network) delay(l *link) time.Duration {
	base := nw.w.par.latency
	d := base/2 + time.Duration(nw.rng.Int64N(int64(base)))
	if l.spike > 0 && nw.rng.Float64() < l.spike {
		d += time.Duration(nw.rng.Int64N(int64(3 * time.Second)))
	}
	return d + l.slow
}

// send has fn run at the other end, once, never or twice, in any order. A
// message may meet a later process than the one it was sent to.
func (nw *network) send(from, to int, k kind, fn func()) {
	l := &nw.links[from][to]
	w := nw.w
	if l.cut {
		w.acted.Lost++
		if nw.rng.IntN(8) == 0 { // held by something on the way until long after
			w.acted.Held++
			nw.deliver(to, k, time.Duration(nw.rng.Int64N(int64(12*time.Second))), fn)
		}
		return
	}
	if l.loss > 0 && nw.rng.Float64() < l.loss {
		w.acted.Lost++
		return
	}
	nw.deliver(to, k, nw.delay(l), fn)
	if l.dup > 0 && nw.rng.Float64() < l.dup {
		w.acted.Duplicated++
		nw.deliver(to, k, nw.delay(l), fn)
	}
}

func (nw *network) deliver(to int, k kind, d time.Duration, fn func()) {
	e := event{at: nw.w.now + d, kind: k, any: true, fn: fn}
	if to < len(nw.w.nodes) {
		e.node = nw.w.nodes[to]
	}
	nw.w.push(e)
}

// call is one request that waits for its answer, on a connection that matches
// answers to requests: a late or second one goes nowhere.
type call struct {
	over bool
	from *node // nil: a client
	gen  uint32
	done func(any, error)
}

func (c *call) finish(v any, err error) {
	if c.over || c.from != nil && (c.from.gen != c.gen || !c.from.up) {
		return
	}
	c.over = true
	c.done(v, err)
}

// server answers a request at node d. reply may be called later, at most once
// for each delivery of the request.
type server func(d *node, reply func(any))

// call sends a request from end `from` to node `to`.
func (nw *network) call(n *node, from, to int, k kind, timeout time.Duration, serve server, done func(any, error)) {
	c := &call{from: n, done: done}
	w := nw.w
	e := event{at: w.now + timeout, kind: evTimeout, over: &c.over, fn: func() { c.finish(nil, errTimeout) }}
	if n != nil {
		c.gen, e.node, e.gen = n.gen, n, n.gen
	}
	w.push(e)
	d := w.nodes[to]
	gen := d.gen
	request := func() {
		if !d.up {
			nw.send(to, from, evReply, func() { c.finish(nil, errRefused) })
			return
		}
		if d.gen != gen {
			w.acted.Old++
		}
		at, replied := d.gen, false
		serve(d, func(v any) {
			if replied || d.gen != at || d.disk.dead {
				return
			}
			replied = true
			nw.send(to, from, evReply, func() { c.finish(v, nil) })
		})
	}
	if from == to {
		nw.deliver(to, k, 20*time.Microsecond, request)
		return
	}
	nw.send(from, to, k, request)
}

// call sends a request from this process.
func (n *node) call(to int, k kind, timeout time.Duration, serve server, done func(any, error)) {
	n.w.net.call(n, n.idx, to, k, timeout, serve, func(v any, err error) {
		if errors.Is(err, errRefused) {
			n.refused(to)
		}
		done(v, err)
	})
}
