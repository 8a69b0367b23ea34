package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Credentials authenticate brokers of one cluster to each other.
type Credentials struct {
	// Secret is the cluster's shared secret. Empty is accepted only where
	// both ends are loopback addresses, or with Insecure.
	Secret   []byte
	Insecure bool
}

var errNoSecret = errors.New("a shared secret is needed beyond loopback: give every broker the same --secret-file, or say --insecure")

// permit checks that a connection with that peer may do without a secret.
func (c Credentials) permit(remote string) error {
	if len(c.Secret) > 0 || c.Insecure || isLoopback(remote) {
		return nil
	}
	return errNoSecret
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Each side proves the secret over both hellos, so a proof is bound to both
// identities, both nonces, the class and the direction: it can be neither
// replayed nor reflected. The dialling side proves first; whoever merely
// connects learns nothing to guess the secret from.
const (
	dialerLabel   = "tailrace dialer proof 1"
	acceptorLabel = "tailrace acceptor proof 1"
)

func proof(secret []byte, label string, dialer, acceptor *hello) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(label)) // a hash's Write does not fail
	for _, h := range []*hello{dialer, acceptor} {
		b := h.encode(nil)
		m.Write([]byte{byte(len(b) >> 8), byte(len(b))})
		m.Write(b)
	}
	return m.Sum(nil)
}

func newHello(id Identity, class Class) *hello {
	h := &hello{id: id, class: class}
	rand.Read(h.nonce[:]) // never fails (crypto/rand)
	return h
}

// checkCluster refuses a peer of another cluster. One that has no cluster id
// yet may talk about founding only.
func checkCluster(mine, theirs string) (founding bool, err error) {
	switch {
	case mine == "" || theirs == "":
		return true, nil
	case mine != theirs:
		return false, fmt.Errorf("the peer belongs to cluster %q, this broker to %q", theirs, mine)
	}
	return false, nil
}
