package api

// Operation is what a principal wants to do, numbered as in Kafka's ACLs.
type Operation int8

// Operations of Kafka's AclOperation.
const (
	OpNone            Operation = 0
	OpRead            Operation = 3
	OpWrite           Operation = 4
	OpCreate          Operation = 5
	OpDelete          Operation = 6
	OpAlter           Operation = 7
	OpDescribe        Operation = 8
	OpClusterAction   Operation = 9
	OpDescribeConfigs Operation = 10
	OpAlterConfigs    Operation = 11
	OpIdempotentWrite Operation = 12
)

// Resource is the kind of thing an operation is on, numbered as in Kafka.
type Resource int8

// Resources of Kafka's ResourceType.
const (
	ResourceNone          Resource = 0
	ResourceTopic         Resource = 2
	ResourceGroup         Resource = 3
	ResourceCluster       Resource = 4
	ResourceTransactional Resource = 5
)

// clusterName is the only resource of type cluster.
const clusterName = "kafka-cluster"

// When says how a key is checked.
type When uint8

// The kinds of check. The zero value is none of them: a key without an
// entry fails the tests and is refused at run time.
const (
	Unset       When = iota
	Open             // anybody who may connect
	PerResource      // by the handler, for every resource that the request is about
)

// Auth is a key's entry in the authorization table.
type Auth struct {
	Op       Operation
	Resource Resource
	When     When
}

// Peer is who sent a request.
type Peer struct {
	// Principal as authenticated; "" before authentication is complete. A
	// listener without authentication gives "User:ANONYMOUS".
	Principal string
	Listener  string
	Remote    string
	Internal  bool  // arrived on the internal listener from a broker
	Broker    int32 // which broker, on the internal listener
}

// Authorizer decides. It is asked with the names found in requests, so it must
// not keep them. Answers must not depend on whether the resource exists.
type Authorizer interface {
	Allowed(p *Peer, op Operation, resource Resource, name string) bool
}

// AllowAll lets everybody do everything: the authorizer of a broker whose
// listeners need no authentication.
type AllowAll struct{}

// Allowed implements Authorizer.
func (AllowAll) Allowed(*Peer, Operation, Resource, string) bool { return true }
