package config

import (
	"fmt"
	"strings"
)

const preamble = `# Configuration of a node

<!-- Generated from broker/config; change the table there, then: go test ./broker/config -run TestDocumentation -update -->

A setting is a flag (` + "`--bootstrap-expect 3`" + `), a variable of the environment (` + "`TAILRACE_BOOTSTRAP_EXPECT=3`" + `) and a key of the YAML file
that ` + "`--config`" + ` or ` + "`TAILRACE_CONFIG`" + ` names (` + "`bootstrap-expect: 3`" + `). A flag wins over the environment, the environment over the file.
An unknown key in the file is an error. Sizes take KiB, MiB, GiB, TiB or kB, MB, GB, TB; durations ms, s, m, h.

Settings of the cluster and of topics are not here: they have Kafka's names and are changed with ` + "`logctl config`" + ` or any Kafka tool.

| setting | default | meaning |
|---|---|---|
`

// Markdown returns docs/configuration.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(preamble)
	fs := newFlagSet(new(Node))
	for _, s := range settings {
		def := fs.Lookup(s.key).DefValue
		switch {
		case s.key == "id" || def == "":
			def = ""
		default:
			def = "`" + def + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.key, def, s.doc)
	}
	return b.String()
}
