package faults

import (
	"bufio"
	"encoding/json"
	"os"
)

// logLine is what we look at in a broker's log.
type logLine struct {
	Event       string `json:"event"`
	Broker      int32  `json:"broker"`
	Incarnation uint64 `json:"incarnation"`
	Term        uint64 `json:"term"`
	Controller  int32  `json:"controller"`
}

// told lists the events that are counted, by how the report names them.
var told = map[string]string{
	"broker_fenced": "brokers fenced", "controller_changed": "controllers elected", "log_truncated": "logs truncated", "torn_tail": "torn tails cut",
	"quarantined": "files quarantined", "corruption_found": "corruptions found", "repaired": "ranges repaired", "poisoned": "data directories poisoned",
	"disk_low": "disks low", "disk_recovered": "disks with room again", "replica_failed": "replicas offline",
}

// logged counts events of the brokers' logs. What every broker tells of the
// same thing counts once.
func (c *campaign) logged() map[string]int {
	out, seen := map[string]int{}, map[logLine]bool{}
	for _, n := range c.nodes {
		f, err := os.Open(n.log.Name())
		if err != nil {
			continue // the count is for people; the verdict does not depend on it
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(make([]byte, 1<<16), 16<<20)
		for sc.Scan() {
			var l logLine
			if json.Unmarshal(sc.Bytes(), &l) != nil || told[l.Event] == "" {
				continue
			}
			if l.Event == "broker_fenced" || l.Event == "controller_changed" {
				if seen[l] || l.Event == "controller_changed" && l.Controller < 1 {
					continue
				}
				seen[l] = true
			}
			out["log: "+told[l.Event]]++
		}
		_ = f.Close() // only read
	}
	return out
}
