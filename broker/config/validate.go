package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
)

// listener is one of a node's addresses.
type listener struct {
	key, addr string
	host      string
	port      int
	// peers: only brokers connect, so that the shared secret authenticates.
	peers bool
}

// HTTPOn reports whether the HTTP listener is wanted.
func (n *Node) HTTPOn() bool { return n.HTTP != "" && n.HTTP != "off" }

// Validate returns every violated rule, one a line.
func (n *Node) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n.ID < 0 {
		fail("id: want 0 or more, unique in the cluster")
	}
	if n.Dir == "" {
		fail("dir: required")
	}
	if n.BootstrapExpect < 0 || n.BootstrapExpect > 7 {
		fail("bootstrap-expect: want 0 to 7; further brokers join later")
	}
	if n.BootstrapExpect > 1 && len(n.Join) == 0 {
		fail("join: needed to meet the other brokers that bootstrap-expect waits for")
	}
	errs = append(errs, n.checkListeners()...)
	errs = append(errs, n.checkAdvertised()...)
	errs = append(errs, n.checkLimits()...)
	return errors.Join(errs...)
}

func (n *Node) checkListeners() (errs []error) {
	ls := []listener{{key: "kafka", addr: n.Kafka}, {key: "internal", addr: n.Internal, peers: true}, {key: "gossip", addr: n.Gossip, peers: true}}
	if n.HTTPOn() {
		ls = append(ls, listener{key: "http", addr: n.HTTP})
	}
	for i := range ls {
		l := &ls[i]
		var err error
		if l.host, l.port, err = splitAddr(l.addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", l.key, err))
			continue
		}
		for _, o := range ls[:i] {
			if o.port == l.port && l.port != 0 && (o.host == l.host || wildcard(o.host) || wildcard(l.host)) {
				errs = append(errs, fmt.Errorf("%s: port %d is taken by %s", l.key, l.port, o.key))
			}
		}
		if err := n.checkExposure(*l); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// checkExposure refuses to start an open listener that others can reach.
func (n *Node) checkExposure(l listener) error {
	switch {
	case loopback(l.host) || n.Insecure:
		return nil
	case l.peers && n.SecretFile == "":
		return fmt.Errorf("%s: %s is reachable from other machines: give the cluster a secret-file, or say --insecure", l.key, l.addr)
	case !l.peers:
		return fmt.Errorf("%s: %s is reachable from other machines without authentication: listen on loopback, or say --insecure", l.key, l.addr)
	}
	return nil
}

func (n *Node) checkAdvertised() (errs []error) {
	for _, a := range []struct{ key, addr, listen string }{
		{"advertise", n.Advertise, n.Kafka}, {"advertise-internal", n.AdvertiseInternal, n.Internal}, {"advertise-gossip", n.AdvertiseGossip, n.Gossip},
	} {
		host, _, err := splitAddr(a.listen)
		switch {
		case a.addr == "" && err == nil && wildcard(host) && a.key != "advertise-gossip":
			errs = append(errs, fmt.Errorf("%s: required, since %s is no address that others can connect to", a.key, a.listen))
		case a.addr != "":
			if host, port, err := splitAddr(a.addr); err != nil || wildcard(host) || port == 0 {
				errs = append(errs, fmt.Errorf("%s: %q: want host:port that others can connect to", a.key, a.addr))
			}
		}
	}
	for _, addr := range n.Join {
		if _, _, err := splitAddr(addr); err != nil {
			errs = append(errs, fmt.Errorf("join: %w", err))
		}
	}
	return errs
}

func (n *Node) checkLimits() (errs []error) {
	for _, l := range []struct {
		key       string
		v, lo, hi int64
	}{
		{"max-request-bytes", n.MaxRequestBytes, 1 << 20, 1<<31 - 1},
		{"request-memory", n.RequestMemory, 1 << 20, 1 << 50},
		{"max-in-flight", int64(n.MaxInFlight), 1, 1 << 20},
		{"max-connections", int64(n.MaxConnections), 1, 1 << 24},
		{"max-connections-per-ip", int64(n.MaxConnectionsPerIP), 0, 1 << 24},
		{"cache-bytes", n.CacheBytes, 0, 1 << 50},
		{"scrub-bytes", n.ScrubBytes, 0, 1 << 40},
	} {
		if l.v < l.lo || l.v > l.hi {
			errs = append(errs, fmt.Errorf("%s: %d: want %d to %d", l.key, l.v, l.lo, l.hi))
		}
	}
	if n.IdleTimeout <= 0 {
		errs = append(errs, errors.New("idle-timeout: want more than 0"))
	}
	if n.ScrubPeriod <= 0 {
		errs = append(errs, errors.New("scrub-period: want more than 0"))
	}
	if n.ShutdownTimeout <= 0 {
		errs = append(errs, errors.New("shutdown-timeout: want more than 0"))
	}
	return errs
}

const minSecretBytes = 16

// Secret reads the cluster's shared secret; nil when there is none.
func (n *Node) Secret() ([]byte, error) {
	if n.SecretFile == "" {
		return nil, nil
	}
	info, err := os.Stat(n.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("secret-file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("secret-file: %s is open to others (mode %04o): chmod 600 it", n.SecretFile, mode)
	}
	b, err := os.ReadFile(n.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("secret-file: %w", err)
	}
	if b = bytes.TrimSpace(b); len(b) < minSecretBytes {
		return nil, fmt.Errorf("secret-file: %s holds %d bytes, want at least %d", n.SecretFile, len(b), minSecretBytes)
	}
	return b, nil
}

func splitAddr(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q: want host:port", addr)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q: want a port from 0 to 65535", addr)
	}
	return host, port, nil
}

// loopback reports that only this machine can connect. Names other than
// localhost are not looked up: what they mean may change.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func wildcard(host string) bool {
	if host == "" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}
