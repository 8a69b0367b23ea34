package planted

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tailrace/tailrace/bench/cluster"
	"github.com/tailrace/tailrace/bench/faults"
	"github.com/tailrace/tailrace/bench/proc"
	"github.com/tailrace/tailrace/internal/sim"
)

// hunt runs clusters in the simulator, from the seed on.
func (s *search) hunt(ctx context.Context, tag string) (Found, error) {
	out, _, err := built(ctx, []string{"build"}, "./internal/sim/hunt", tag, ".",
		"-seed", fmt.Sprint(s.o.Seed), "-seeds", fmt.Sprint(s.seeds))
	if err != nil {
		return Found{}, err
	}
	var prey sim.Prey
	if err := json.Unmarshal(out, &prey); err != nil {
		return Found{}, fmt.Errorf("what the simulator said: %w: %s", err, out)
	}
	s.seeds = prey.Seeds
	f := Found{By: prey.Invariant, Detail: fmt.Sprintf("%d clusters from seed %d, %d events", prey.Seeds, s.o.Seed, prey.Events)}
	if f.By != "" {
		f.Detail += ": " + prey.Detail
	}
	return f, nil
}

// sweep runs a package's test, which must fail.
func (s *search) sweep(ctx context.Context, tag string) (Found, error) {
	pkg, test, _ := strings.Cut(s.way.Where, " ")
	out, failed, err := built(ctx, []string{"test", "-c"}, pkg, tag, pkg, "-test.v", "-test.run", "^"+test+"$")
	if err != nil {
		return Found{}, err
	}
	return judgeTest(out, test, failed)
}

var (
	failLine = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	saidLine = regexp.MustCompile(`(?m)^ +\w+_test\.go:\d+: *\n? *(.+)$`)
)

// judgeTest reads the output of a test binary: only a failure of that very test
// counts.
func judgeTest(out []byte, test string, failed bool) (Found, error) {
	m := failLine.FindAllSubmatch(out, -1)
	switch {
	case !failed && bytes.Contains(out, []byte("--- PASS: "+test+" ")):
		return Found{Detail: test + " passed"}, nil
	case !failed || m == nil || string(m[0][1]) != test:
		return Found{}, fmt.Errorf("%s neither passed nor failed by itself:\n%s", test, out)
	}
	part := string(m[0][1])
	if len(m) > 1 && strings.HasPrefix(string(m[1][1]), test+"/") {
		part = string(m[1][1])
	}
	return Found{By: test, Detail: strings.TrimSpace(part + ": " + lastWords(out, part))}, nil
}

// lastWords returns the first line of the last message that a test wrote.
func lastWords(out []byte, test string) string {
	_, own, _ := bytes.Cut(out, []byte("=== RUN   "+test+"\n"))
	own, _, _ = bytes.Cut(own, []byte("=== RUN"))
	own, _, _ = bytes.Cut(own, []byte("--- FAIL"))
	said := saidLine.FindAllSubmatch(own, -1)
	if said == nil {
		return ""
	}
	return string(said[len(said)-1][1])
}

// campaign runs campaigns on processes, each with its own seed.
func (s *search) campaign(ctx context.Context, tag string) (Found, error) {
	o := s.o.Faults
	o.Nemesis, o.Tags, o.Binary, o.Seed = s.way.Where, tag, "", s.o.Seed
	limit := s.seeds
	for try := uint64(1); ; try++ {
		r, err := faults.Run(ctx, o)
		switch {
		case ctx.Err() != nil:
			return Found{}, ctx.Err()
		case err != nil:
			return Found{}, err
		case r.SkipReason != "":
			return Found{}, errLeftOut{r.SkipReason}
		}
		if r.Kept != "" && tag != "" && !o.Keep { // the anomaly was wanted
			if err := os.RemoveAll(r.Kept); err != nil {
				return Found{}, err
			}
		}
		f := Found{Detail: fmt.Sprintf("%d campaigns, the last of seed %d", try, o.Seed)}
		if !r.Valid() {
			s.seeds, f.By = try, r.Bad()
			return f, nil
		}
		if try == limit {
			return f, nil
		}
		o.Seed++
	}
}

// built builds a package with a tag, runs the program in a directory of the
// module and returns what it printed. failed: its exit status was not 0.
func built(ctx context.Context, build []string, pkg, tag, dir string, args ...string) (out []byte, failed bool, err error) {
	module, err := cluster.ModuleDir()
	if err != nil {
		return nil, false, err
	}
	tmp, err := os.MkdirTemp("", "tailrace-planted-")
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	bin := filepath.Join(tmp, "detector")
	build = append(build, "-tags", tag, "-o", bin, pkg)
	if err := proc.Run(ctx, proc.Spec{Name: "go build " + pkg, Path: "go", Args: build, Dir: module}); err != nil {
		return nil, false, err
	}
	cmd := exec.CommandContext(ctx, bin, args...) //nolint:gosec // built above
	cmd.Dir = filepath.Join(module, dir)
	out, err = cmd.Output()
	var status *exec.ExitError
	if errors.As(err, &status) && ctx.Err() == nil && status.Exited() {
		return out, true, nil
	}
	return out, false, errors.Join(ctx.Err(), err)
}
