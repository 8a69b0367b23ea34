package api

import (
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeCluster (60, versions 0-2). Only the brokers' endpoints exist: every
// broker takes administrative requests, so there is no controller listener.
func describeCluster(c *call) {
	var req kmsg.DescribeClusterRequest
	if !c.decode(&req) {
		return
	}
	img := c.s.b.Image()
	resp := &kmsg.DescribeClusterResponse{ClusterID: img.ClusterID, EndpointType: req.EndpointType,
		ControllerID: c.s.controller(), ClusterAuthorizedOperations: math.MinInt32}
	if req.EndpointType != brokerEndpoints {
		resp.ErrorCode, resp.ControllerID = kerr.UnsupportedEndpointType.Code, -1
		resp.ErrorMessage = message("only brokers (endpoint type 1) can be described")
		c.reply(resp)
		return
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = c.operations(ResourceCluster, clusterName)
	}
	for _, b := range reachableBrokers(c, img, req.IncludeFencedBrokers) {
		resp.Brokers = append(resp.Brokers, kmsg.DescribeClusterResponseBroker{
			NodeID: b.id, Host: b.host, Port: b.port, Rack: b.rack, IsFenced: b.fenced,
		})
	}
	c.reply(resp)
}

const brokerEndpoints = 1
