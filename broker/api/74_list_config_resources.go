package api

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListConfigResources (74, versions 0-1) lists what can carry configuration:
// topics and brokers. Version 0 asks for client metrics only, of which there
// are none.
func listConfigResources(c *call) {
	var req kmsg.ListConfigResourcesRequest
	if !c.decode(&req) {
		return
	}
	resp := &kmsg.ListConfigResourcesResponse{}
	if !c.allowedCluster() {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		c.reply(resp)
		return
	}
	img := c.s.b.Image()
	asks := func(kind kmsg.ConfigResourceType) bool {
		return c.version > 0 && (len(req.ResourceTypes) == 0 || slices.Contains(req.ResourceTypes, int8(kind)))
	}
	add := func(name string, kind kmsg.ConfigResourceType) {
		resp.ConfigResources = append(resp.ConfigResources, kmsg.ListConfigResourcesResponseConfigResource{Name: name, Type: int8(kind)})
	}
	if asks(kmsg.ConfigResourceTypeTopic) {
		for _, name := range slices.Sorted(maps.Keys(img.TopicsByName)) {
			if c.allowed(OpDescribe, ResourceTopic, name) {
				add(name, kmsg.ConfigResourceTypeTopic)
			}
		}
	}
	if asks(kmsg.ConfigResourceTypeBroker) {
		for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
			add(strconv.Itoa(int(id)), kmsg.ConfigResourceTypeBroker)
		}
	}
	c.reply(resp)
}
