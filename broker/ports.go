package broker

import (
	"errors"
	"fmt"
	"net"
)

// PortError says which setting names an address that cannot be listened on.
type PortError struct {
	Setting string // kafka, internal, gossip or http
	Addr    string
	Err     error // of package net
}

func (e *PortError) Error() string {
	return fmt.Sprintf("--%s %s: %v; choose another address or stop what uses it", e.Setting, e.Addr, e.Cause())
}

// Cause is the error without the address, which the message has already.
func (e *PortError) Cause() error {
	if op := new(net.OpError); errors.As(e.Err, &op) {
		return op.Err
	}
	return e.Err
}

func (e *PortError) Unwrap() error { return e.Err }

// CheckPorts fails with a PortError if an address of o cannot be listened on.
// Start asks before it makes the data directory, so that a port that is taken
// leaves nothing behind; the ports are bound after it, since clients should be
// refused, not kept waiting, while a log recovers.
func CheckPorts(o Options) error {
	for _, l := range []struct{ setting, addr string }{{"kafka", o.Kafka}, {"internal", o.Internal}, {"gossip", o.Gossip}, {"http", o.HTTP}} {
		if l.addr == "" {
			continue
		}
		if err := checkPort(l.addr, l.setting == "gossip"); err != nil {
			return &PortError{Setting: l.setting, Addr: l.addr, Err: err}
		}
	}
	return nil
}

func checkPort(addr string, alsoUDP bool) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil || !alsoUDP {
		return err
	}
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	return p.Close()
}
