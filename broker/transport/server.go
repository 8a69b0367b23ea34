package transport

import (
	"context"
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/tailrace/tailrace/broker/wire"
)

// ServerOptions configure the accepting side.
type ServerOptions struct {
	// Identity returns who this broker is now. Safe for concurrent use.
	Identity func() Identity
	Credentials
	// Wire bounds connections; RequireAuth, Internal and Listener are set by
	// NewServer.
	Wire wire.Options
}

// Server serves requests of other brokers. Register handlers with Handle
// before Serve.
type Server struct {
	o        ServerOptions
	srv      *wire.Server
	handlers map[int16]handler
}

type handler struct {
	min, max int16
	serve    wire.HandlerFunc
}

// Peer is what the handshake proved about the other side of a connection. The
// incarnation is the one at connection time; requests that are fenced by
// incarnation carry it themselves.
type Peer struct {
	Identity
	Class    Class
	Founding bool // one side has no cluster id: KeyFound only
}

// session is the handshake's state; it lives in wire.Conn.Session and is used
// on the connection's reading goroutine until the peer is proven.
type session struct {
	theirs, mine *hello
	peer         Peer
	proven       bool
}

// PeerOf returns the proven peer of a connection of this server.
func PeerOf(c *wire.Conn) (Peer, bool) {
	s, ok := c.Session.(*session)
	if !ok || !s.proven {
		return Peer{}, false
	}
	return s.peer, true
}

// NewServer returns a server without handlers other than the handshake's and
// KeyPing's.
func NewServer(o ServerOptions) *Server {
	s := &Server{o: o, handlers: make(map[int16]handler)}
	o.Wire.RequireAuth, o.Wire.Internal, o.Wire.Listener = true, true, "internal"
	s.srv = wire.NewServer(wire.HandlerFunc(s.serve), o.Wire)
	s.Handle(KeyPing, 0, 0, func(r *wire.Request) { Reply(r) })
	return s
}

// Handle registers a handler for versions [minVersion, maxVersion] of a key,
// private or Kafka's. It must not block (see wire.Handler) and answers private
// keys with Reply or ReplyError.
func (s *Server) Handle(key, minVersion, maxVersion int16, h wire.HandlerFunc) {
	s.handlers[key] = handler{minVersion, maxVersion, h}
}

// Serve accepts connections on l until the server closes.
func (s *Server) Serve(l net.Listener) error { return s.srv.Serve(l) }

// Shutdown lets requests in flight be answered until ctx ends, then closes.
func (s *Server) Shutdown(ctx context.Context) error { return s.srv.Shutdown(ctx) }

// Close closes at once.
func (s *Server) Close() error { return s.srv.Close() }

// Reply answers a private request with success.
func Reply(r *wire.Request, parts ...wire.Part) {
	r.Reply(append([]wire.Part{{Bytes: []byte{0, codeNone}}}, parts...)...)
}

// ReplyError answers a private request with a Kafka error code other than 0.
func ReplyError(r *wire.Request, code int16, message string) {
	b := binary.BigEndian.AppendUint16(nil, uint16(code))
	r.Reply(wire.Part{Bytes: appendString(b, message[:min(len(message), 1<<10)])})
}

// refuse answers with an error and closes the connection after it.
func refuse(r *wire.Request, code int16, err error) {
	ReplyError(r, code, err.Error())
	r.Conn.Finish(err)
}

// serve dispatches a request.
func (s *Server) serve(r *wire.Request) {
	switch r.Key {
	case KeyHello:
		s.hello(r)
		return
	case KeyProof:
		s.proof(r)
		return
	}
	peer, ok := PeerOf(r.Conn)
	if !ok {
		r.Close(fmt.Errorf("request with key %d before the handshake", r.Key))
		return
	}
	h, known := s.handlers[r.Key]
	switch {
	case !known && r.Key < firstPrivateKey:
		r.Close(fmt.Errorf("key %d is not served between brokers", r.Key))
	case !known || r.Version < h.min || r.Version > h.max:
		ReplyError(r, codeUnsupportedVersion, fmt.Sprintf("key %d version %d: this broker serves %d to %d", r.Key, r.Version, h.min, h.max))
	case peer.Founding && r.Key != KeyFound && r.Key != KeyPing:
		// Closing makes the peer say hello again, with its cluster id then.
		refuse(r, codeForeignCluster, errors.New("one of the brokers had no cluster id when the connection was made"))
	default:
		h.serve(r)
	}
}

// hello takes the dialling side's identity and challenge, and answers with
// this side's.
func (s *Server) hello(r *wire.Request) {
	if r.Conn.Session != nil {
		r.Close(errors.New("second hello"))
		return
	}
	if r.Version != 0 {
		refuse(r, codeUnsupportedVersion, fmt.Errorf("hello version %d: this broker serves 0", r.Version))
		return
	}
	if err := s.o.permit(r.Conn.RemoteAddr); err != nil {
		refuse(r, codeAuthentication, err)
		return
	}
	var theirs hello
	if err := theirs.decode(r.Body); err != nil {
		r.Close(fmt.Errorf("hello: %w", err))
		return
	}
	mine := newHello(s.o.Identity(), theirs.class)
	founding, err := checkCluster(mine.id.ClusterID, theirs.id.ClusterID)
	if err != nil {
		refuse(r, codeForeignCluster, err)
		return
	}
	r.Conn.Session = &session{theirs: &theirs, mine: mine, peer: Peer{theirs.id, theirs.class, founding}}
	Reply(r, wire.Part{Bytes: mine.encode(nil)})
}

// proof verifies the dialling side's proof and gives this side's.
func (s *Server) proof(r *wire.Request) {
	ses, ok := r.Conn.Session.(*session)
	if !ok || ses.proven {
		r.Close(errors.New("proof without a hello"))
		return
	}
	if !hmac.Equal(r.Body, proof(s.o.Secret, dialerLabel, ses.theirs, ses.mine)) {
		refuse(r, codeAuthentication, errors.New("the brokers do not share the same secret"))
		return
	}
	answer := proof(s.o.Secret, acceptorLabel, ses.theirs, ses.mine)
	ses.proven = true
	r.Conn.Peer = ses.peer.Broker
	r.Conn.Principal = fmt.Sprintf("Broker:%d", ses.peer.Broker)
	r.Conn.SetAuthenticated()
	Reply(r, wire.Part{Bytes: answer})
}
