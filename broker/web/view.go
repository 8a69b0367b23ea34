package web

// View is what one broker knows of the cluster at one moment. It is immutable
// once returned: handlers of many requests share it.
//
// Offsets, lags and epochs that this broker does not know are -1: it knows its
// own replicas, and followers' progress in the partitions that it leads.
type View struct {
	ClusterID  string
	Self       int32 // this broker
	Controller int32 // -1 while there is none
	Brokers    []Broker
	Topics     []Topic // sorted by name
}

// Broker is one registered broker.
type Broker struct {
	ID    int32  `json:"id"`
	Host  string `json:"host"` // advertised for Kafka clients
	Port  int32  `json:"port"`
	HTTP  string `json:"http"` // host:port of its console, "" if unknown
	Rack  string `json:"rack"`
	Alive bool   `json:"alive"` // not fenced
	// Role in the metadata quorum: "leader", "voter", "learner", or "" if unknown.
	Role string `json:"role"`
	// Controller says that it leads the metadata quorum.
	Controller bool `json:"controller"`
	Leaders    int  `json:"leaders"`  // partitions that it leads
	Replicas   int  `json:"replicas"` // partitions that it holds
}

// Topic is one topic with its partitions in order.
type Topic struct {
	Topic             string      `json:"topic"`
	ID                string      `json:"id"`
	Internal          bool        `json:"internal"`
	MinInsyncReplicas int         `json:"min_insync_replicas"` // 0 if unknown
	SyncReplicas      int         `json:"sync_replicas"`       // target of the in-sync set; 0 means all replicas
	Partitions        []Partition `json:"partitions"`
}

// Partition is one partition as this broker knows it.
type Partition struct {
	Topic         string    `json:"topic"`
	Partition     int32     `json:"partition"`
	Leader        int32     `json:"leader"` // -1 while there is none
	LeaderEpoch   int32     `json:"leader_epoch"`
	ISR           []int32   `json:"isr"` // the committed in-sync set
	LogStart      int64     `json:"log_start"`
	HighWatermark int64     `json:"high_watermark"`
	LogEnd        int64     `json:"log_end"`
	Replicas      []Replica `json:"replicas"`
}

// Replica is one replica of a partition.
type Replica struct {
	Broker int32 `json:"broker"`
	// State is "leader", "in-sync", "async" (alive, outside of the in-sync set)
	// or "offline".
	State         string `json:"state"`
	LogEnd        int64  `json:"log_end"` // durable end
	HighWatermark int64  `json:"high_watermark"`
	Lag           int64  `json:"lag"` // offsets behind the leader's end
	// Suspect: the log's tail may lack acknowledged records (after an unclean
	// stop), so this replica does not lead before it has caught up.
	Suspect bool `json:"suspect"`
	// Damaged: blocks of the log fail their checksum and await repair.
	Damaged bool `json:"damaged"`
}

// ClusterView is the answer of /v1/cluster.
type ClusterView struct {
	ClusterID      string   `json:"cluster_id"`
	Self           int32    `json:"self"`
	Controller     int32    `json:"controller"`
	Ready          bool     `json:"ready"`
	NotReadyReason string   `json:"not_ready_reason,omitempty"`
	Brokers        []Broker `json:"brokers"`
	Topics         int      `json:"topics"`
	Partitions     int      `json:"partitions"`
	Leaderless     int      `json:"leaderless_partitions"`
	// UnderReplicated partitions have an in-sync set below its target, which is
	// all replicas or the topic's sync.replicas.
	UnderReplicated int `json:"under_replicated_partitions"`
	UnderMinISR     int `json:"under_min_isr_partitions"` // refuse acks=all produces
}

// Source is what the server shows. Its methods are called often and from many
// goroutines, so they must be cheap and must not block.
type Source interface {
	// View returns the present view.
	View() View
	// Ready returns nil when this broker can serve clients, and otherwise why not.
	Ready() error
}

func clusterView(v View, ready error) ClusterView {
	c := ClusterView{
		ClusterID: v.ClusterID, Self: v.Self, Controller: v.Controller,
		Ready: ready == nil, Brokers: orEmpty(v.Brokers), Topics: len(v.Topics),
	}
	if ready != nil {
		c.NotReadyReason = ready.Error()
	}
	for _, t := range v.Topics {
		for _, p := range t.Partitions {
			c.Partitions++
			if p.Leader < 0 {
				c.Leaderless++
			}
			if len(p.ISR) < t.target(p) {
				c.UnderReplicated++
			}
			if len(p.ISR) < t.MinInsyncReplicas {
				c.UnderMinISR++
			}
		}
	}
	return c
}

// target is the size that the in-sync set of a partition should have.
func (t Topic) target(p Partition) int {
	if t.SyncReplicas > 0 {
		return min(t.SyncReplicas, len(p.Replicas))
	}
	return len(p.Replicas)
}

// orEmpty makes JSON show [] instead of null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func partitionsOf(topics []Topic, only string) []Partition {
	out := []Partition{}
	for _, t := range topics {
		if only == "" || t.Topic == only {
			out = append(out, t.Partitions...)
		}
	}
	return out
}
