package api

import (
	"fmt"
	"strings"
)

// ProtocolDoc is docs/protocol.md: the table in words. A test keeps the file
// current.
func ProtocolDoc() string {
	var b strings.Builder
	b.WriteString(protocolIntro)
	b.WriteString("| key | API | versions | flexible from | largest request | authorization | particulars |\n|---|---|---|---|---|---|---|\n")
	for _, k := range Keys() {
		flexible := fmt.Sprintf("%d", k.FlexibleFrom)
		if k.FlexibleFrom > k.Max {
			flexible = "never"
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s | %s | %s |\n", k.Key, k.Name, versionRange(k), flexible, size(k.MaxBytes), k.Auth, k.Note)
	}
	b.WriteString(protocolRules)
	return b.String()
}

func versionRange(k *Key) string {
	r := fmt.Sprintf("%d-%d", k.Min, k.Max)
	if k.Min == k.Max {
		r = fmt.Sprintf("%d", k.Max)
	}
	if k.ServedMin > k.Min {
		r += fmt.Sprintf(" (served from %d)", k.ServedMin)
	}
	return r
}

func size(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// String says the check in words.
func (a Auth) String() string {
	if a.When == Open {
		return "none"
	}
	return fmt.Sprintf("%s on %s", operationNames[a.Op], resourceNames[a.Resource])
}

var operationNames = map[Operation]string{
	OpRead: "read", OpWrite: "write", OpCreate: "create", OpDelete: "delete", OpAlter: "alter", OpDescribe: "describe",
	OpDescribeConfigs: "describe configs", OpAlterConfigs: "alter configs", OpIdempotentWrite: "idempotent write",
}

var resourceNames = map[Resource]string{
	ResourceTopic: "topic", ResourceGroup: "group", ResourceCluster: "cluster", ResourceTransactional: "transactional id",
}

const protocolIntro = `# Kafka protocol

<!-- Generated from broker/api; do not edit. go test ./broker/api -run TestProtocolDoc -rewrite -->

What the broker serves on its client listeners. The ranges are those of Kafka 4.4, old versions included, because much-used
clients stop there. A key is served whole or not advertised.

`

const protocolRules = `
## Rules

* **ApiVersions** is answered before authentication. An unknown version of it gets a version 0 body with error 35 and that key's
  range; its response header has no tagged fields in any version. Version 5 checks cluster id and node id (KIP-1242): a mismatch
  gets REBOOTSTRAP_REQUIRED. The only feature reported is metadata.version.
* **Anything else that is not served** (key, version, size, malformed bytes) closes the connection, with the reason in the
  broker's events.
* **Sizes.** Before a request is decoded its counts and lengths are walked and compared with the bytes that are there; what it
  may decode to is bounded by 32 MiB. Before authentication a request has at most 64 KiB.
* **acks.** A produce is answered when its records are on stable storage of the in-sync set. acks=1 waits for the same unless the
  topic has acks.floor=client. acks=0 is unacknowledged by definition. A timeout answers REQUEST_TIMED_OUT; the records may still
  be committed.
* **Reads.** Every replica serves committed records to clients that know follower fetching (Fetch 11 and later); others are sent
  to the leader. A redirect is a preferred read replica with no records, not an error.
* **The controller** in Metadata and DescribeCluster is the broker that answers: every broker forwards administrative requests.
* **Leader hints** (KIP-951) come with Produce 10 and Fetch 16 and later.
* **Fetch sessions** (KIP-227) are bounded; with all slots in use a consumer is served without one.
* **Not there yet**: consumer groups, transactions, SASL, ACLs, quotas, client telemetry. Their keys are not advertised, except
  FindCoordinator, which answers COORDINATOR_NOT_AVAILABLE.
`
