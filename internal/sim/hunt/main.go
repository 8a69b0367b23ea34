// Command hunt runs clusters in the simulator, one seed after the other, until
// one breaks an invariant or it has run enough of them, and prints what it found
// as JSON. Built with a tag bug_<name>, it looks for that planted bug:
//
//	go run -tags bug_isrjoin ./internal/sim/hunt --seed 1 --seeds 100
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/tailrace/tailrace/internal/sim"
)

func main() {
	seed := flag.Uint64("seed", 1, "the first seed")
	seeds := flag.Uint64("seeds", 0, "how many to run at most; 0: until something is found")
	flag.Parse()
	if err := json.NewEncoder(os.Stdout).Encode(sim.Hunt(*seed, *seeds)); err != nil {
		fmt.Fprintln(os.Stderr, "hunt:", err)
		os.Exit(1)
	}
}
