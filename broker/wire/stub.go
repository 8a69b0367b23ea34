package wire

type pending struct{}

// Conn is a placeholder until the server lands.
type Conn struct{}
