package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterConfigs (33, versions 0-2) replaces a resource's whole configuration:
// what the request does not name returns to its default.
func alterConfigs(c *call) {
	var req kmsg.AlterConfigsRequest
	if !c.decode(&req) {
		return
	}
	c.background(alterConfigsWait, func(ctx context.Context) {
		img := c.s.b.Image()
		changes := make([]control.ConfigChange, len(req.Resources))
		outcomes := make([]configOutcome, len(req.Resources))
		seen := make(map[string]bool)
		for i := range req.Resources {
			r := &req.Resources[i]
			outcomes[i] = checkConfigResource(c, img, r.ResourceType, r.ResourceName, seen)
			changes[i] = control.ConfigChange{Type: control.ResourceType(r.ResourceType), Name: cloneString(r.ResourceName), Replace: true}
			for _, kv := range r.Configs {
				if kv.Value != nil { // null asks for the default
					changes[i].Ops = append(changes[i].Ops, control.ConfigOp{Key: cloneString(kv.Name), Value: cloneString(*kv.Value), Op: control.OpSet})
				}
			}
		}
		submitConfigs(ctx, c, changes, outcomes, req.ValidateOnly)
		resp := &kmsg.AlterConfigsResponse{Resources: make([]kmsg.AlterConfigsResponseResource, len(req.Resources))}
		for i, o := range outcomes {
			r := &req.Resources[i]
			resp.Resources[i] = kmsg.AlterConfigsResponseResource{ErrorCode: o.code, ErrorMessage: message(o.msg), ResourceType: r.ResourceType, ResourceName: r.ResourceName}
		}
		c.reply(resp)
	})
}
