package proc

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports are taken from below Linux's range for outgoing connections (32768 on),
// so that no connection takes one between the look and the bind, or while a
// process that is to be started again is down.
const (
	firstPort = 11000
	lastPort  = 32000
)

// given are the ports that this process gave out; none is given twice.
var given struct {
	mu    sync.Mutex
	ports map[int]bool
}

// FreePorts returns n ports of the loopback interface that are free for TCP and
// UDP.
func FreePorts(n int) ([]int, error) {
	given.mu.Lock()
	defer given.mu.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	var out []int
	for tries := 0; len(out) < n; tries++ {
		if tries > 100*(n+10) {
			return nil, fmt.Errorf("only %d of %d free ports found from %d to %d", len(out), n, firstPort, lastPort)
		}
		p := firstPort + rand.IntN(lastPort-firstPort) //nolint:gosec // not a secret
		if !given.ports[p] && Free(p) {
			given.ports[p] = true
			out = append(out, p)
		}
	}
	return out, nil
}

// Free reports whether a loopback port can be bound, for TCP and UDP.
func Free(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return u.Close() == nil
}
