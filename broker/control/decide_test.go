package control

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/tailrace/tailrace/internal/model"
	"github.com/tailrace/tailrace/isr"
	"github.com/tailrace/tailrace/segment"
)

// TestDecide runs the scenarios in testdata/decide. Each command goes through
// Decide, the batch encoding and Apply; after each the invariants of the image
// are checked and the image must equal a replay of the log.
func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata/decide", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			return w.run(d)
		})
		w.checkReplay()
	})
}

// world is a controller's state without a quorum.
type world struct {
	t     testing.TB
	img   *Image
	v     *Volatile
	now   time.Duration
	index uint64
	log   [][]byte // encoded batches
	topic map[string]model.TopicID
	out   *bytes.Buffer
	disk  map[model.BrokerID]string
}

func newWorld(t testing.TB) *world {
	img := NewImage("cluster")
	img.Index = 1
	return &world{t: t, img: img, v: NewVolatile(2 * time.Second), index: 1, topic: map[string]model.TopicID{}, disk: map[model.BrokerID]string{}}
}

func (w *world) submit(cmd Command) Result {
	w.t.Helper()
	decoded, err := DecodeCommand(EncodeCommand(cmd))
	if err != nil {
		w.t.Fatalf("command codec: %v", err)
	}
	if r, ok := decoded.(*ReportLogs); ok && incarnationOf(w.img, r.Broker) == r.Incarnation {
		w.v.Add(r, w.now)
	}
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], w.index)
	before := EncodeImage(w.img)
	records, res, err := Decide(w.img, w.v, decoded, Input{Index: w.index + 1, Now: w.now, Seed: seed})
	if err != nil {
		w.t.Fatalf("decide: %v", err)
	}
	if !bytes.Equal(before, EncodeImage(w.img)) {
		w.t.Fatalf("Decide changed its image")
	}
	again, res2, _ := Decide(w.img, w.v, decoded, Input{Index: w.index + 1, Now: w.now, Seed: seed})
	if !bytes.Equal(encodeBatch(1, records), encodeBatch(1, again)) || !bytes.Equal(EncodeResult(&res), EncodeResult(&res2)) {
		w.t.Fatalf("Decide is not deterministic")
	}
	if len(records) > 0 {
		w.commit(records)
	}
	res.Index = w.index
	back, err := DecodeResult(EncodeResult(&res))
	if err != nil {
		w.t.Fatalf("result codec: %v", err)
	}
	return *back
}

func (w *world) commit(records []Record) {
	w.t.Helper()
	w.index++
	batch := encodeBatch(w.index, records)
	w.log = append(w.log, batch)
	index, decoded, err := decodeBatch(batch)
	if err != nil {
		w.t.Fatalf("batch codec: %v", err)
	}
	before := EncodeImage(w.img)
	next, u, err := Apply(w.img, index, decoded)
	if err != nil {
		w.t.Fatalf("apply: %v", err)
	}
	if !bytes.Equal(before, EncodeImage(w.img)) {
		w.t.Fatalf("Apply changed the previous image")
	}
	for _, e := range u.Events {
		if w.out != nil {
			fmt.Fprintf(w.out, "event %s\n", w.event(e))
		}
	}
	w.img = next
	checkImage(w.t, next)
	back, err := DecodeImage(EncodeImage(next))
	if err != nil || !bytes.Equal(EncodeImage(back), EncodeImage(next)) {
		w.t.Fatalf("snapshot round trip: %v", err)
	}
}

// checkReplay applies the log from the start and compares.
func (w *world) checkReplay() {
	img := NewImage("cluster")
	img.Index = 1
	for _, b := range w.log {
		index, records, err := decodeBatch(b)
		if err != nil {
			w.t.Fatal(err)
		}
		if img, _, err = Apply(img, index, records); err != nil {
			w.t.Fatal(err)
		}
	}
	if !bytes.Equal(EncodeImage(img), EncodeImage(w.img)) {
		w.t.Fatalf("replay of the log gives another image")
	}
}

// checkImage asserts what holds for every committed image.
func checkImage(t testing.TB, img *Image) {
	t.Helper()
	for _, topic := range img.Topics {
		if img.TopicsByName[topic.Name] != topic {
			t.Fatalf("topic %s is not the one of its name", topic.Name)
		}
		s := EffectiveTopicConfig(img, topic)
		rf := topic.minReplicationFactor()
		if s.MinInsync < 1 || s.MinInsync > rf || s.SyncReplicas != 0 && (s.SyncReplicas < s.MinInsync || s.SyncReplicas > rf) {
			t.Fatalf("topic %s: sizes %d ≤ %d ≤ %d do not hold", topic.Name, s.MinInsync, s.SyncReplicas, rf)
		}
		for i, p := range topic.Partitions {
			if err := p.check(); err != nil {
				t.Fatalf("%s/%d: %v", topic.Name, i, err)
			}
			if len(p.ISR) >= s.MinInsync && len(p.ELR) > 0 {
				t.Fatalf("%s/%d: in-sync set %v is large enough, yet %v are eligible (I8)", topic.Name, i, p.ISR, p.ELR)
			}
			for _, id := range p.ISR {
				if !img.Brokers[id].Live() {
					t.Fatalf("%s/%d: broker %d is in sync but not live (I10)", topic.Name, i, id)
				}
			}
			if p.Leader != model.NoBroker && p.LeaderIncarnation != img.Brokers[p.Leader].Incarnation {
				t.Fatalf("%s/%d: leader %d leads under incarnation %d, registered %d", topic.Name, i, p.Leader, p.LeaderIncarnation, img.Brokers[p.Leader].Incarnation)
			}
		}
	}
}

func (w *world) event(e Event) string {
	names := map[EventKind]string{EventBrokerRegistered: "registered", EventBrokerFenced: "fenced", EventBrokerUnfenced: "unfenced",
		EventBrokerDraining: "draining", EventBrokerUnregistered: "unregistered", EventStorageChanged: "storage-changed", EventTopicCreated: "topic-created",
		EventTopicDeleted: "topic-deleted", EventPartitionOffline: "offline", EventUncleanElection: "unclean-election", EventFeatureFinalized: "feature"}
	s := names[e.Kind]
	if !e.TP.Topic.IsZero() {
		s += " " + w.tpName(e.TP)
	}
	if e.Broker != 0 {
		s += fmt.Sprintf(" broker=%d", e.Broker)
	}
	if e.Kind == EventUncleanElection || e.Kind == EventBrokerFenced {
		s += " (" + e.Detail + ")"
	}
	return s
}

func (w *world) tpName(tp model.TopicPartition) string {
	for name, id := range w.topic {
		if id == tp.Topic {
			return fmt.Sprintf("%s/%d", name, tp.Partition)
		}
	}
	return fmt.Sprintf("new/%d", tp.Partition)
}

func codeName(code int16) string {
	if code == 0 {
		return "ok"
	}
	return kerr.TypedErrorForCode(code).Message
}

func (w *world) run(d *datadriven.TestData) string {
	w.out = &bytes.Buffer{}
	out := w.command(d)
	s := w.out.String() + out
	w.out = nil
	if s == "" {
		return "ok"
	}
	return s
}

func (w *world) command(d *datadriven.TestData) string {
	a := args{d}
	id := model.BrokerID(a.num("id", 0))
	inc := model.Incarnation(a.num("inc", int64(incarnationOf(w.img, id))))
	switch d.Cmd {
	case "register":
		return w.register(id, a)
	case "up": // register, report intact logs, unfence
		for _, id := range a.brokers("ids") {
			w.register(id, a)
			inc := incarnationOf(w.img, id)
			w.submit(&ReportLogs{Broker: id, Incarnation: inc, Last: true})
			w.submit(&UnfenceBroker{Broker: id, Incarnation: inc})
		}
		w.out.Reset()
		return ""
	case "unfence":
		return w.whole(w.submit(&UnfenceBroker{Broker: id, Incarnation: inc}))
	case "fence":
		return w.whole(w.submit(&FenceBroker{Broker: id, Incarnation: inc, Reason: FenceReason(a.num("reason", 1))}))
	case "drain":
		return w.whole(w.submit(&DrainBroker{Broker: id, Incarnation: inc}))
	case "unregister":
		return w.whole(w.submit(&UnregisterBroker{Broker: id}))
	case "report":
		return w.report(id, inc, a)
	case "forget": // a new controller
		w.v = NewVolatile(2 * time.Second)
		return ""
	case "sleep":
		w.now += time.Duration(a.num("ms", 0)) * time.Millisecond
		return w.whole(w.submit(&ResolveOffline{}))
	case "balance":
		return w.whole(w.submit(&BalanceLeaders{Max: int32(a.num("max", 100))}))
	case "create":
		return w.create(a)
	case "delete":
		res := w.submit(&DeleteTopics{Topics: []TopicRef{{Name: a.str("topic", "")}}})
		return w.topics(res)
	case "partitions":
		return w.topics(w.submit(&CreatePartitions{Topics: []MorePartitions{{Name: a.str("topic", ""), Count: int32(a.num("count", 0)), Assignment: a.assignment()}}}))
	case "config":
		return w.config(a)
	case "propose":
		return w.propose(a)
	case "elect":
		res := w.submit(&ElectLeaders{Unclean: a.has("unclean"), All: a.has("all"), Partitions: w.tps(a), Principal: a.str("who", "")})
		return w.whole(res) + w.partitionResults(res)
	case "producer-ids":
		res := w.submit(&AllocateProducerIDs{Broker: id, Incarnation: inc})
		return w.whole(res) + fmt.Sprintf("block %d +%d", res.FirstProducerID, res.ProducerIDs)
	case "feature":
		return w.whole(w.submit(&FinalizeFeatures{Level: int32(a.num("level", 0))}))
	case "show":
		return w.show(a)
	case "describe":
		return w.describe(a)
	}
	w.t.Fatalf("unknown command %s", d.Cmd)
	return ""
}

func storageOf(disk string) model.StorageID {
	var s model.StorageID
	copy(s[:], "disk-"+disk)
	return s
}

func (w *world) register(id model.BrokerID, a args) string {
	disk := a.str("disk", "")
	if disk == "" {
		if disk = w.disk[id]; disk == "" {
			disk = strconv.Itoa(int(id))
		}
	}
	w.disk[id] = disk
	prev := int64(0)
	if b := w.img.Brokers[id]; b != nil && b.StorageID == storageOf(disk) {
		prev = int64(b.Incarnation)
	}
	rack := ""
	if racks := a.list("racks"); len(racks) > 0 {
		rack = racks[int(id-1)%len(racks)]
	}
	return w.whole(w.submit(&RegisterBroker{Broker: id, Storage: storageOf(disk), RaftID: RaftIDFor(storageOf(disk)), Rack: rack,
		ClusterID: a.str("cluster", ""), Previous: model.Incarnation(a.num("previous", prev)), MaxFeature: MaxFeatureLevel}))
}

func (w *world) report(id model.BrokerID, inc model.Incarnation, a args) string {
	cmd := &ReportLogs{Broker: id, Incarnation: inc, Last: true}
	kinds := map[string]segment.Suspicion{"": segment.Trusted, "torn": segment.TornTail, "damaged": segment.Damaged, "missing": segment.Missing}
	for _, tp := range w.tps(a) {
		cmd.Logs = append(cmd.Logs, LogReport{TP: tp, Epoch: int32(a.num("epoch", 0)), End: a.num("end", 0), Suspect: kinds[a.str("suspect", "")]})
	}
	return w.whole(w.submit(cmd))
}

func (w *world) create(a args) string {
	t := NewTopic{Name: a.str("topic", ""), Partitions: int32(a.num("partitions", -1)), ReplicationFactor: int16(a.num("rf", -1)), Assignment: a.assignment(), Config: a.config()}
	res := w.submit(&CreateTopics{Topics: []NewTopic{t}, ValidateOnly: a.has("validate")})
	for _, r := range res.Topics {
		if r.Code == 0 && !r.ID.IsZero() {
			w.topic[r.Name] = r.ID
		}
	}
	return w.topics(res)
}

func (w *world) config(a args) string {
	ch := ConfigChange{Type: ResourceTopic, Name: a.str("topic", ""), Replace: a.has("replace")}
	if a.has("cluster") || a.has("broker") {
		ch.Type, ch.Name = ResourceBroker, a.str("broker", "")
	}
	for _, op := range strings.Split(strings.TrimSpace(a.d.Input), "\n") {
		f := strings.SplitN(op, " ", 3)
		kinds := map[string]OpType{"set": OpSet, "delete": OpDelete, "append": OpAppend, "subtract": OpSubtract}
		o := ConfigOp{Op: kinds[f[0]], Key: f[1]}
		if len(f) > 2 {
			o.Value = f[2]
		}
		ch.Ops = append(ch.Ops, o)
	}
	res := w.submit(&AlterConfigs{Resources: []ConfigChange{ch}, ValidateOnly: a.has("validate")})
	var b strings.Builder
	for _, r := range res.Resources {
		fmt.Fprintf(&b, "%s %s\n", codeName(r.Code), r.Message)
	}
	return b.String()
}

func (w *world) propose(a args) string {
	tp := w.tps(a)[0]
	p := w.img.Partition(tp)
	leader := model.BrokerID(a.num("from", int64(p.Leader)))
	pr := isr.Proposal{ID: 7, LeaderEpoch: int32(a.num("epoch", int64(p.LeaderEpoch))), PartitionEpoch: int32(a.num("pepoch", int64(p.PartitionEpoch))),
		BasedOn: uint64(a.num("based", int64(w.img.Index))), ByPolicy: a.brokers("policy")}
	for _, id := range a.brokers("isr") {
		pr.ISR = append(pr.ISR, isr.Member{Broker: id, Incarnation: model.Incarnation(a.num(fmt.Sprintf("inc%d", id), int64(incarnationOf(w.img, id))))})
	}
	res := w.submit(&AlterPartitions{Broker: leader, Incarnation: model.Incarnation(a.num("inc", int64(incarnationOf(w.img, leader)))), Proposals: []PartitionProposal{{tp, pr}}})
	return w.whole(res) + w.partitionResults(res)
}

func (w *world) whole(r Result) string {
	if r.Code == 0 {
		return ""
	}
	return fmt.Sprintf("%s %s\n", codeName(r.Code), r.Message)
}

func (w *world) topics(res Result) string {
	var b strings.Builder
	for _, r := range res.Topics {
		fmt.Fprintf(&b, "%s %s", r.Name, codeName(r.Code))
		if r.Code == 0 && r.Partitions > 0 {
			fmt.Fprintf(&b, " partitions=%d rf=%d", r.Partitions, r.ReplicationFactor)
		}
		if r.Code != 0 {
			fmt.Fprintf(&b, ": %s", r.Message)
		}
		b.WriteByte('\n')
	}
	return w.whole(res) + b.String()
}

func (w *world) partitionResults(res Result) string {
	var b strings.Builder
	for _, r := range res.Partitions {
		fmt.Fprintf(&b, "%s %s", w.tpName(r.TP), codeName(r.Code))
		if r.ID != 0 {
			fmt.Fprintf(&b, " outcome=%s", []string{"committed", "rejected", "unknown"}[r.Outcome])
		}
		if r.Code != 0 {
			fmt.Fprintf(&b, ": %s", r.Message)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (w *world) show(a args) string {
	var b strings.Builder
	if a.has("brokers") {
		for _, br := range w.img.SortedBrokers() {
			fmt.Fprintf(&b, "broker %d inc=%d confirmed=%d fenced=%v draining=%v\n", br.ID, br.Incarnation, br.Confirmed, br.Fenced, br.Draining)
		}
	}
	for _, t := range w.img.SortedTopics() {
		if want := a.str("topic", t.Name); want != t.Name {
			continue
		}
		for i, p := range t.Partitions {
			fmt.Fprintf(&b, "%s/%d replicas=%v leader=%d/%d isr=%v", t.Name, i, p.Replicas, p.Leader, p.LeaderEpoch, p.ISR)
			if len(p.ELR) > 0 {
				fmt.Fprintf(&b, " elr=%v", p.ELR)
			}
			fmt.Fprintf(&b, " pe=%d\n", p.PartitionEpoch)
		}
	}
	return b.String()
}

func (w *world) describe(a args) string {
	var b strings.Builder
	for _, v := range DescribeTopicConfig(w.img, w.img.TopicsByName[a.str("topic", "")]) {
		if slices.Contains(a.list("keys"), v.Def.Name) {
			fmt.Fprintf(&b, "%s=%s source=%d\n", v.Def.Name, v.Value, v.Source)
		}
	}
	return b.String()
}

func (w *world) tps(a args) []model.TopicPartition {
	var out []model.TopicPartition
	for _, s := range a.list("tp") {
		name, n, _ := strings.Cut(s, "/")
		i, _ := strconv.Atoi(n)
		out = append(out, model.TopicPartition{Topic: w.topic[name], Partition: int32(i)})
	}
	return out
}

// args reads the arguments of a datadriven command.
type args struct{ d *datadriven.TestData }

func (a args) has(key string) bool { return a.d.HasArg(key) }

func (a args) list(key string) []string {
	for _, arg := range a.d.CmdArgs {
		if arg.Key == key {
			return arg.Vals
		}
	}
	return nil
}

func (a args) str(key, def string) string {
	if v := a.list(key); len(v) > 0 {
		return v[0]
	}
	return def
}

func (a args) num(key string, def int64) int64 {
	if v := a.list(key); len(v) > 0 {
		n, err := strconv.ParseInt(v[0], 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	return def
}

func ids(list []string) []model.BrokerID {
	var out []model.BrokerID
	for _, s := range list {
		n, err := strconv.Atoi(s)
		if err != nil {
			panic(err)
		}
		out = append(out, model.BrokerID(n))
	}
	return out
}

func (a args) brokers(key string) []model.BrokerID { return ids(a.list(key)) }

func (a args) assignment() [][]model.BrokerID {
	var out [][]model.BrokerID
	for _, s := range a.list("assign") {
		out = append(out, ids(strings.Split(s, "-")))
	}
	return out
}

func (a args) config() map[string]string {
	lines := strings.TrimSpace(a.d.Input)
	if lines == "" {
		return nil
	}
	m := map[string]string{}
	for _, l := range strings.Split(lines, "\n") {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	return m
}
