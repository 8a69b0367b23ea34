package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/tailrace/tailrace/bench/proc"
)

// Ports of a broker, as indexes.
const (
	kafkaPort = iota
	internalPort
	gossipPort
	httpPort
	portCount
)

// network is where the brokers live: namespaces of their own, whose links can
// be cut, or loopback.
type network interface {
	fmt.Stringer
	// addr is the address of a broker's listener.
	addr(node, port int) string
	// peerAddr is where other brokers find it: addr, or that of a proxy.
	peerAddr(node, port int) string
	// command wraps the command line of a process of the broker.
	command(node int, path string, args []string) (string, []string)
	// process says which process is the broker now.
	process(node, pid int)
	// cut makes packets from one broker to another vanish without a trace.
	cut(from, to int) error
	// heal restores all links.
	heal() error
	close() error
}

// errNoCuts is why a nemesis that cuts links cannot run.
var errNoCuts = errors.New("links cannot be cut here: that takes network namespaces, or Linux's /proc")

// newNetwork returns namespaces where this machine allows them, and loopback
// otherwise or when asked for; with proxies in its links where they are to be
// cut.
func newNetwork(nodes int, loopback, cuts bool) (network, error) {
	reason := "asked for"
	if !loopback {
		n, err := tryNamespaces(nodes)
		if err == nil {
			return n, nil
		}
		reason = err.Error()
	}
	if cuts && canProxy() {
		return newProxyNet(nodes, reason)
	}
	return newLoopback(nodes, reason)
}

func tryNamespaces(nodes int) (*namespaces, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("not root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, errors.New("no ip command")
	}
	return newNamespaces(nodes)
}

// loopbackNet has all brokers on 127.0.0.1; links cannot be cut.
type loopbackNet struct {
	ports  []int
	reason string
}

func newLoopback(nodes int, reason string) (*loopbackNet, error) {
	ports, err := proc.FreePorts(nodes * portCount)
	return &loopbackNet{ports: ports, reason: reason}, err
}

func (l *loopbackNet) String() string { return "loopback (" + l.reason + ")" }
func (l *loopbackNet) addr(node, port int) string {
	return fmt.Sprintf("127.0.0.1:%d", l.ports[node*portCount+port])
}
func (l *loopbackNet) command(_ int, path string, args []string) (string, []string) {
	return path, args
}
func (l *loopbackNet) peerAddr(node, port int) string { return l.addr(node, port) }
func (l *loopbackNet) process(int, int)               {}
func (l *loopbackNet) cut(int, int) error             { return errNoCuts }
func (l *loopbackNet) heal() error                    { return nil }
func (l *loopbackNet) close() error                   { return nil }

// namespaces gives each broker a network namespace, joined by a bridge that
// the clients reach too. Names carry the pid of their owner, so that what a
// killed run left behind is found and removed by the next.
type namespaces struct {
	prefix string // tr<pid>
	subnet string // 10.x.y
	nodes  int

	mu  sync.Mutex
	off map[[2]int]bool // links that are cut
}

// nobody is a hardware address that no interface has.
const nobody = "02:00:00:00:00:99"

func newNamespaces(nodes int) (*namespaces, error) {
	if err := sweepNamespaces(); err != nil {
		return nil, err
	}
	subnet, err := freeSubnet()
	if err != nil {
		return nil, err
	}
	n := &namespaces{prefix: fmt.Sprintf("tr%d", os.Getpid()), subnet: subnet, nodes: nodes, off: map[[2]int]bool{}}
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *namespaces) build() error {
	if err := ip("link add %s type bridge", n.prefix); err != nil {
		return err
	}
	if err := errors.Join(ip("addr add %s.254/24 dev %s", n.subnet, n.prefix), ip("link set %s up", n.prefix)); err != nil {
		return err
	}
	for i := range n.nodes {
		ns, veth := n.ns(i), fmt.Sprintf("%sv%d", n.prefix, i)
		for _, line := range []string{
			"netns add " + ns,
			fmt.Sprintf("link add %s type veth peer name eth0 netns %s", veth, ns),
			fmt.Sprintf("link set %s master %s up", veth, n.prefix),
			fmt.Sprintf("-n %s addr add %s/24 dev eth0", ns, n.host(i)),
			fmt.Sprintf("-n %s link set eth0 up", ns),
			fmt.Sprintf("-n %s link set lo up", ns),
		} {
			if err := ip("%s", line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *namespaces) String() string { return fmt.Sprintf("%d network namespaces", n.nodes) }

func (n *namespaces) ns(i int) string   { return fmt.Sprintf("%s-%d", n.prefix, i) }
func (n *namespaces) host(i int) string { return fmt.Sprintf("%s.%d", n.subnet, 10+i) }
func (n *namespaces) addr(node, port int) string {
	return fmt.Sprintf("%s:%d", n.host(node), 9090+port)
}

func (n *namespaces) command(node int, path string, args []string) (string, []string) {
	return "ip", append([]string{"netns", "exec", n.ns(node), path}, args...)
}

func (n *namespaces) peerAddr(node, port int) string { return n.addr(node, port) }
func (n *namespaces) process(int, int)               {}

// cut points the sender's neighbour entry at a hardware address that does not
// exist: packets leave and reach nobody, and the sender gets no error, as when
// a cable is cut behind the switch. A blackhole route would tell it at once.
func (n *namespaces) cut(from, to int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off[[2]int{from, to}] = true
	return ip("-n %s neigh replace %s lladdr %s dev eth0 nud permanent", n.ns(from), n.host(to), nobody)
}

func (n *namespaces) heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for link := range n.off {
		if err := ip("-n %s neigh del %s dev eth0", n.ns(link[0]), n.host(link[1])); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(n.off, link)
	}
	return errors.Join(errs...)
}

func (n *namespaces) close() error { return removeNamespaces(n.prefix) }

// ip runs one iproute2 command; the error carries what it said.
func ip(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// freeSubnet finds a /24 of 10/8 that no interface here uses.
func freeSubnet() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for k := range 200 {
		s := fmt.Sprintf("10.%d.%d", 200+k%50, (os.Getpid()+k)%250+1)
		used := false
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok {
				used = used || p.Contains(net.ParseIP(s+".254"))
			}
		}
		if !used {
			return s, nil
		}
	}
	return "", errors.New("no free subnet in 10.200.0.0/10")
}

var ownedName = regexp.MustCompile(`^tr(\d+)-\d+`)

// sweepNamespaces removes what runs left behind whose process is gone.
func sweepNamespaces() error {
	names, err := namespaceNames()
	if err != nil {
		return err
	}
	var errs []error
	seen := map[string]bool{}
	for _, name := range names {
		m := ownedName.FindStringSubmatch(name)
		if m == nil || seen[m[1]] {
			continue
		}
		seen[m[1]] = true
		if !alive(m[1]) {
			errs = append(errs, removeNamespaces("tr"+m[1]))
		}
	}
	return errors.Join(errs...)
}

// alive reports whether a process with that pid exists.
func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return true
	}
	_, err = os.Stat(fmt.Sprintf("/proc/%d", n))
	return err == nil
}

func namespaceNames() ([]string, error) {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return nil, fmt.Errorf("ip netns list: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return names, nil
}

// removeNamespaces removes the namespaces of one owner, their links and the
// bridge. Links go with the end that lies in the namespace.
func removeNamespaces(prefix string) error {
	names, err := namespaceNames()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, prefix+"-") {
			if i := strings.LastIndexByte(name, '-'); i > 0 { // the outer end first: removal of the namespace is asynchronous
				_ = ip("link del %sv%s", prefix, name[i+1:])
			}
			errs = append(errs, ip("netns del %s", name))
		}
	}
	if _, err := net.InterfaceByName(prefix); err == nil {
		errs = append(errs, ip("link del %s", prefix))
	}
	return errors.Join(errs...)
}
