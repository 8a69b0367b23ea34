package wire

import "github.com/tailrace/tailrace/internal/model"

// Stand-ins so that broker/api compiles without the server.

type pending struct{ body *struct{} }

// Conn is a placeholder until the server lands.
type Conn struct {
	Principal, Listener, RemoteAddr string
	Internal                        bool
	Peer                            model.BrokerID
	Session                         any
}

// SetSoftware is a placeholder.
func (*Conn) SetSoftware(name, version string) {}

// Software is a placeholder.
func (*Conn) Software() (name, version string) { return "", "" }

// Reply is a placeholder.
func (*Request) Reply(parts ...Part) {}

// NoReply is a placeholder.
func (*Request) NoReply() {}

// Close is a placeholder.
func (*Request) Close(reason error) {}

// Done is a placeholder.
func (*Request) Done() <-chan struct{} { return nil }
