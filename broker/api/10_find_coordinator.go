package api

import (
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FindCoordinator (10, versions 0-6; batched from 4). There are no groups,
// transactions or share groups yet: every key is answered with the retriable
// COORDINATOR_NOT_AVAILABLE, an unknown kind with INVALID_REQUEST.
func findCoordinator(c *call) {
	var req kmsg.FindCoordinatorRequest
	if !c.decode(&req) {
		return
	}
	const share = 2 // KIP-932, version 6
	code, msg := kerr.CoordinatorNotAvailable.Code, "consumer groups and transactions are not available"
	if req.CoordinatorType < 0 || req.CoordinatorType > share || (req.CoordinatorType == share && c.version < 6) {
		code, msg = kerr.InvalidRequest.Code, "unknown coordinator type"
	}
	resp := &kmsg.FindCoordinatorResponse{ErrorCode: code, ErrorMessage: &msg, NodeID: -1, Port: -1}
	resp.Coordinators = make([]kmsg.FindCoordinatorResponseCoordinator, len(req.CoordinatorKeys))
	for i, key := range req.CoordinatorKeys {
		resp.Coordinators[i] = kmsg.FindCoordinatorResponseCoordinator{Key: key, NodeID: -1, Port: -1, ErrorCode: code, ErrorMessage: &msg}
	}
	c.reply(resp)
}
