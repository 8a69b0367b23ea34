package api

import (
	"flag"
	"os"
	"testing"
)

const protocolDocFile = "../../docs/protocol.md"

// TestProtocolDoc: the file is what the table says. -rewrite (of the text
// tests) writes it.
func TestProtocolDoc(t *testing.T) {
	if f := flag.Lookup("rewrite"); f != nil && f.Value.String() == "true" {
		if err := os.WriteFile(protocolDocFile, []byte(ProtocolDoc()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(protocolDocFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != ProtocolDoc() {
		t.Errorf("%s is stale: run go test ./broker/api -run TestProtocolDoc -rewrite", protocolDocFile)
	}
}
