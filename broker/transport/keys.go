// Package transport carries requests between brokers on the internal listener.
//
// It frames like Kafka (package wire) and mixes Kafka's own requests (Fetch)
// with private ones. A connection starts with a mutual proof of the cluster's
// shared secret; after it, requests are pipelined and answered in order. Every
// pair of brokers has one connection per Class, so that nothing prompt waits
// behind something parked.
package transport

// Private API keys, far above Kafka's. Each request carries a version in its
// header; the server answers UNSUPPORTED_VERSION to one outside the range that
// its handler was registered with. Private responses start with an error code:
// see Reply and ReplyError.
const (
	// KeyHello opens a connection: identity and challenge.
	KeyHello int16 = 1000
	// KeyProof ends the handshake: proof of the secret, both ways.
	KeyProof int16 = 1001
	// KeyPing asks whether the peer's process is there; empty body and answer.
	KeyPing int16 = 1002
	// KeyFound carries founding messages between nodes that have no cluster
	// id yet. The only request served on a connection of such a node.
	KeyFound int16 = 1003
	// KeyRaft carries messages of the metadata quorum, one-way.
	KeyRaft int16 = 1010
	// KeyCommand sends a metadata command to the leader of the quorum.
	KeyCommand int16 = 1011
	// KeyHeartbeat keeps a broker's session with the controller.
	KeyHeartbeat int16 = 1012
	// KeyLogReport asks a broker for the (epoch, end, suspicion) of its logs.
	KeyLogReport int16 = 1013
	// KeyDurable reports durable ends of follower replicas to their leader.
	KeyDurable int16 = 1020
	// KeyKick has the fetches that are parked on this connection answered at
	// once: the follower has partitions to add to its session.
	KeyKick int16 = 1022
	// KeyConfirm asks in-sync followers to confirm a leader in its epoch.
	KeyConfirm int16 = 1021
)

const firstPrivateKey = 1000

// Class separates connections by what may wait on them.
type Class uint8

// The classes of connections between two brokers.
const (
	Raft      Class = iota // quorum messages, one-way, bounded queue
	Control                // commands; wait for commit
	Heartbeat              // broker sessions; answered at once
	Fetch                  // long-polled
	Durable                // durable ends; answered at once
	Probe                  // is it alive; answered at once
	numClasses
)

var classNames = [numClasses]string{"raft", "control", "heartbeat", "fetch", "durable", "probe"}

// String returns the class's name for logs and metrics.
func (c Class) String() string {
	if c < numClasses {
		return classNames[c]
	}
	return "unknown"
}

// prompt reports that requests of the class are answered at once, so that
// silence means a dead peer, and idle connections are pinged.
func (c Class) prompt() bool { return c != Control && c != Fetch }

// Kafka error codes used by the transport itself.
const (
	codeNone               = 0
	codeUnsupportedVersion = 35
	codeInvalidRequest     = 42
	codeAuthentication     = 58
	codeForeignCluster     = 104
)
