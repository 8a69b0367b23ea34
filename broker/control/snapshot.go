package control

import (
	"fmt"
	"slices"

	"github.com/tailrace/tailrace/internal/model"
)

const snapshotVersion uint8 = 1

// EncodeImage returns the snapshot form of an image. Equal images have equal
// snapshots.
func EncodeImage(img *Image) []byte {
	c := &coder{buf: []byte{snapshotVersion}}
	codeImage(c, img)
	return c.buf
}

// DecodeImage reads what EncodeImage wrote. Errors wrap ErrCorrupt, or
// ErrUnknownRecord for a newer format.
func DecodeImage(b []byte) (*Image, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty snapshot", ErrCorrupt)
	}
	if b[0] != snapshotVersion {
		return nil, fmt.Errorf("%w: snapshot version %d", ErrUnknownRecord, b[0])
	}
	c := &coder{buf: b[1:], reading: true}
	img := NewImage("")
	codeImage(c, img)
	return img, c.end()
}

// NewImage returns the image at index 0 of a cluster.
func NewImage(clusterID string) *Image {
	return &Image{ClusterID: clusterID,
		Brokers:      map[model.BrokerID]*Broker{},
		TopicsByName: map[string]*Topic{},
		Topics:       map[model.TopicID]*Topic{},
		Deleted:      map[model.TopicID]struct{}{},
		BrokerConfig: map[model.BrokerID]map[string]string{},
	}
}

func codeImage(c *coder, img *Image) {
	c.u64(&img.Index)
	c.str(&img.ClusterID)
	c.i32(&img.FeatureLevel)
	c.i64(&img.NextProducerID)
	c.strMap(&img.ClusterConfig)
	c.u64(&img.ConfigIndex)
	codeSlice(c, &img.Voters, c.u64)
	codeSlice(c, &img.Learners, c.u64)
	codeSlice(c, &img.Retired, c.u64)
	codeBrokers(c, img)
	codeTopics(c, img)
	codeDeleted(c, img)
	codeBrokerConfigs(c, img)
}

func codeBrokers(c *coder, img *Image) {
	list := img.SortedBrokers()
	codeSlice(c, &list, func(b **Broker) {
		if *b == nil {
			*b = &Broker{}
		}
		(*b).code(c)
	})
	for _, b := range list {
		if c.reading {
			img.Brokers[b.ID] = b
		}
	}
}

// SortedBrokers returns the registrations by broker id.
func (img *Image) SortedBrokers() []*Broker {
	list := make([]*Broker, 0, len(img.Brokers))
	for _, b := range img.Brokers {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b *Broker) int { return int(a.ID) - int(b.ID) })
	return list
}

// SortedTopics returns the topics by name.
func (img *Image) SortedTopics() []*Topic {
	list := make([]*Topic, 0, len(img.TopicsByName))
	for _, name := range sortedKeys(img.TopicsByName) {
		list = append(list, img.TopicsByName[name])
	}
	return list
}

func codeTopics(c *coder, img *Image) {
	list := img.SortedTopics()
	codeSlice(c, &list, func(t **Topic) {
		if *t == nil {
			*t = &Topic{}
		}
		codeTopic(c, *t)
	})
	if !c.reading || c.err != nil {
		return
	}
	for _, t := range list {
		img.Topics[t.ID], img.TopicsByName[t.Name] = t, t
	}
	if len(img.Topics) != len(list) || len(img.TopicsByName) != len(list) {
		c.fail("topic appears twice")
	}
}

func codeTopic(c *coder, t *Topic) {
	c.id(&t.ID)
	c.str(&t.Name)
	c.bool(&t.Internal)
	c.strMap(&t.Config)
	c.u64(&t.ConfigIndex)
	codeSlice(c, &t.Partitions, func(p **Partition) {
		if *p == nil {
			*p = &Partition{}
		}
		codePartition(c, *p)
	})
	if c.reading {
		t.leastFactor = t.minReplicationFactor()
	}
}

func codePartition(c *coder, p *Partition) {
	c.brokers(&p.Replicas)
	codeSlice(c, &p.Directories, c.storage)
	c.brokers(&p.ISR)
	c.brokers(&p.ELR)
	c.broker(&p.Leader)
	c.i32(&p.LeaderEpoch)
	c.incarnation(&p.LeaderIncarnation)
	c.i32(&p.PartitionEpoch)
	if c.reading && c.err == nil {
		if err := p.check(); err != nil {
			c.fail(err.Error())
		}
	}
}

func codeDeleted(c *coder, img *Image) {
	list := make([]model.TopicID, 0, len(img.Deleted))
	for id := range img.Deleted {
		list = append(list, id)
	}
	slices.SortFunc(list, func(a, b model.TopicID) int { return slices.Compare(a[:], b[:]) })
	codeSlice(c, &list, c.id)
	if c.reading {
		for _, id := range list {
			img.Deleted[id] = struct{}{}
		}
	}
}

func codeBrokerConfigs(c *coder, img *Image) {
	list := make([]model.BrokerID, 0, len(img.BrokerConfig))
	for id := range img.BrokerConfig {
		list = append(list, id)
	}
	slices.Sort(list)
	codeSlice(c, &list, func(id *model.BrokerID) {
		c.broker(id)
		m := img.BrokerConfig[*id]
		c.strMap(&m)
		if c.reading && c.err == nil {
			img.BrokerConfig[*id] = m
		}
	})
}
