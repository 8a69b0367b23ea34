package api

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// InitProducerId (22, versions 0-5) hands out producer ids for idempotent
// producers, each once and never again. A producer that asks to go on from
// (id, epoch) after a loss (KIP-360) gets a new id at epoch 0, as in Kafka: the
// epoch of an id without transactions has no owner that could fence anybody.
// There are no transactions yet: a transactional id is refused.
func initProducerID(c *call) {
	var req kmsg.InitProducerIDRequest
	if !c.decode(&req) {
		return
	}
	if code := checkProducer(c, &req); code != 0 {
		c.reply(&kmsg.InitProducerIDResponse{ErrorCode: code, ProducerID: -1, ProducerEpoch: -1})
		return
	}
	c.background(producerIDWait, func(ctx context.Context) {
		id, err := c.s.b.AllocateProducerID(ctx)
		if err != nil {
			c.reply(&kmsg.InitProducerIDResponse{ErrorCode: kerr.CoordinatorLoadInProgress.Code, ProducerID: -1, ProducerEpoch: -1})
			return
		}
		c.reply(&kmsg.InitProducerIDResponse{ProducerID: id})
	})
}

// producerIDWait bounds the wait for a block of ids.
const producerIDWait = 10 * time.Second

func checkProducer(c *call, req *kmsg.InitProducerIDRequest) int16 {
	switch {
	case req.TransactionalID != nil:
		return kerr.TransactionalIDAuthorizationFailed.Code
	case (req.ProducerID < 0) != (req.ProducerEpoch < 0):
		return kerr.InvalidRequest.Code
	case !c.allowedCluster():
		return kerr.ClusterAuthorizationFailed.Code
	default:
		return 0
	}
}
