package api

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
)

// Metadata (3, versions 0-13).
//
//   - Topics: null asks for all (an empty list does in version 0), an empty
//     list for none; by id from version 10.
//   - The controller is the answering broker, since every broker forwards
//     administrative requests, or -1 while it has no contact with the metadata
//     quorum: then nobody can be told to ask it.
//   - Only brokers with an address on the client's listener are listed.
//   - Creation of missing topics needs auto.create.topics.enable, and the
//     client's consent from version 4. The answer is then
//     LEADER_NOT_AVAILABLE or, if that was quick enough, the topic.
func metadata(c *call) {
	var req kmsg.MetadataRequest
	if !c.decode(&req) {
		return
	}
	if missing := topicsToCreate(c, &req); len(missing) > 0 {
		c.background(autoCreateWait, func(ctx context.Context) {
			create := &control.CreateTopics{}
			for _, name := range missing {
				create.Topics = append(create.Topics, control.NewTopic{Name: name, Partitions: -1, ReplicationFactor: -1})
			}
			// A refusal shows as the topics' absence: the client asks again.
			_, err := c.s.b.Submit(ctx, create)
			answerMetadata(c, &req, err == nil)
		})
		return
	}
	answerMetadata(c, &req, false)
}

// autoCreateWait bounds how long a metadata request waits for topics that it
// creates.
const autoCreateWait = 5 * time.Second

// topicsToCreate returns the names that do not exist and may be created.
func topicsToCreate(c *call, req *kmsg.MetadataRequest) []string {
	img := c.s.b.Image()
	if len(req.Topics) == 0 || (c.version >= 4 && !req.AllowAutoTopicCreation) || !brokerBool(c, "auto.create.topics.enable") {
		return nil
	}
	var names []string
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if name == nil || img.TopicsByName[*name] != nil || !validTopicName(*name) {
			continue
		}
		if c.allowed(OpCreate, ResourceCluster, clusterName) || c.allowed(OpCreate, ResourceTopic, *name) {
			names = append(names, cloneString(*name))
		}
	}
	return names
}

// controller is who takes administrative requests: this broker, as it forwards
// them, or nobody (-1) while it is cut off from the metadata quorum.
func (s *Server) controller() int32 {
	if !s.b.LeaseValid() {
		return int32(model.NoBroker)
	}
	return int32(s.b.Self())
}

func answerMetadata(c *call, req *kmsg.MetadataRequest, created bool) {
	img := c.s.b.Image()
	clusterID := img.ClusterID
	resp := &kmsg.MetadataResponse{ClusterID: &clusterID, ControllerID: c.s.controller(), AuthorizedOperations: math.MinInt32}
	resp.Brokers = metadataBrokers(c, img)
	if req.IncludeClusterAuthorizedOperations {
		resp.AuthorizedOperations = c.operations(ResourceCluster, clusterName)
	}
	switch {
	case req.Topics == nil || (c.version == 0 && len(req.Topics) == 0):
		for _, name := range slices.Sorted(maps.Keys(img.TopicsByName)) {
			if c.allowed(OpDescribe, ResourceTopic, name) {
				resp.Topics = append(resp.Topics, metadataTopic(c, img, req, img.TopicsByName[name]))
			}
		}
	default:
		resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(req.Topics))
		for i := range req.Topics {
			resp.Topics = append(resp.Topics, metadataAsked(c, img, req, &req.Topics[i], created))
		}
	}
	c.reply(resp)
}

func metadataBrokers(c *call, img *control.Image) []kmsg.MetadataResponseBroker {
	reachable := reachableBrokers(c, img, false)
	brokers := make([]kmsg.MetadataResponseBroker, len(reachable))
	for i, b := range reachable {
		brokers[i] = kmsg.MetadataResponseBroker{NodeID: b.id, Host: b.host, Port: b.port, Rack: b.rack}
	}
	return brokers
}

// metadataAsked answers one topic that the request names.
func metadataAsked(c *call, img *control.Image, req *kmsg.MetadataRequest, asked *kmsg.MetadataRequestTopic, created bool) kmsg.MetadataResponseTopic {
	byID := asked.Topic == nil
	name := ""
	if !byID {
		name = *asked.Topic
	}
	t, code := c.findTopic(img, byID, asked.TopicID, name)
	if code != 0 {
		if created && code == kerr.UnknownTopicOrPartition.Code {
			code = kerr.LeaderNotAvailable.Code
		}
		r := kmsg.MetadataResponseTopic{ErrorCode: code, TopicID: asked.TopicID, AuthorizedOperations: math.MinInt32}
		// The name is nullable from version 12 only.
		if !byID || c.version < 12 {
			r.Topic = &name
		}
		return r
	}
	return metadataTopic(c, img, req, t)
}

func metadataTopic(c *call, img *control.Image, req *kmsg.MetadataRequest, t *control.Topic) kmsg.MetadataResponseTopic {
	r := kmsg.MetadataResponseTopic{Topic: &t.Name, TopicID: t.ID, IsInternal: t.Internal, AuthorizedOperations: math.MinInt32}
	if req.IncludeTopicAuthorizedOperations {
		r.AuthorizedOperations = c.operations(ResourceTopic, t.Name)
	}
	r.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i, p := range t.Partitions {
		r.Partitions[i] = metadataPartition(c, img, int32(i), p)
	}
	return r
}

func metadataPartition(c *call, img *control.Image, index int32, p *control.Partition) kmsg.MetadataResponseTopicPartition {
	r := kmsg.MetadataResponseTopicPartition{
		Partition: index, Leader: int32(p.Leader), LeaderEpoch: p.LeaderEpoch,
		Replicas: ids(p.Replicas), ISR: ids(p.ISR), OfflineReplicas: offlineReplicas(img, p),
	}
	switch {
	case p.Leader == model.NoBroker:
		r.ErrorCode = kerr.LeaderNotAvailable.Code
	default:
		if _, _, ok := c.s.b.Endpoint(c.peer.Listener, p.Leader); !ok {
			r.ErrorCode = kerr.LeaderNotAvailable.Code
		}
	}
	return r
}

// offlineReplicas lists replicas whose broker is not serving.
func offlineReplicas(img *control.Image, p *control.Partition) []int32 {
	offline := []int32{}
	for _, id := range p.Replicas {
		if b := img.Brokers[id]; b == nil || b.Fenced {
			offline = append(offline, int32(id))
		}
	}
	return offline
}

// operationsOf lists what can be asked about a kind of resource (KIP-430).
var operationsOf = map[Resource][]Operation{
	ResourceTopic:   {OpRead, OpWrite, OpCreate, OpDelete, OpAlter, OpDescribe, OpDescribeConfigs, OpAlterConfigs},
	ResourceCluster: {OpCreate, OpAlter, OpDescribe, OpClusterAction, OpDescribeConfigs, OpAlterConfigs, OpIdempotentWrite},
}

// operations returns the bit set of what the principal may do (KIP-430).
func (c *call) operations(resource Resource, name string) int32 {
	var set int32
	for _, op := range operationsOf[resource] {
		if c.allowed(op, resource, name) {
			set |= 1 << op
		}
	}
	return set
}
