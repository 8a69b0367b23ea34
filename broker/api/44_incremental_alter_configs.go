package api

import (
	"context"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// IncrementalAlterConfigs (44, versions 0-1) sets, deletes, appends to and
// subtracts from single keys (KIP-339).
func incrementalAlterConfigs(c *call) {
	var req kmsg.IncrementalAlterConfigsRequest
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
			if outcomes[i].code == 0 {
				changes[i], outcomes[i] = configChange(r)
			}
		}
		submitConfigs(ctx, c, changes, outcomes, req.ValidateOnly)
		resp := &kmsg.IncrementalAlterConfigsResponse{Resources: make([]kmsg.IncrementalAlterConfigsResponseResource, len(req.Resources))}
		for i, o := range outcomes {
			r := &req.Resources[i]
			resp.Resources[i] = kmsg.IncrementalAlterConfigsResponseResource{ErrorCode: o.code, ErrorMessage: message(o.msg), ResourceType: r.ResourceType, ResourceName: r.ResourceName}
		}
		c.reply(resp)
	})
}

func configChange(r *kmsg.IncrementalAlterConfigsRequestResource) (control.ConfigChange, configOutcome) {
	ch := control.ConfigChange{Type: control.ResourceType(r.ResourceType), Name: cloneString(r.ResourceName)}
	keys := make(map[string]bool, len(r.Configs))
	for _, kv := range r.Configs {
		op := control.OpType(kv.Op)
		switch {
		case keys[kv.Name]:
			return ch, configOutcome{kerr.InvalidRequest.Code, "the request changes a key more than once"}
		case op < control.OpSet || op > control.OpSubtract:
			return ch, configOutcome{kerr.InvalidRequest.Code, "unknown operation"}
		case kv.Value == nil && op != control.OpDelete:
			return ch, configOutcome{kerr.InvalidRequest.Code, "only a deletion may have no value"}
		}
		keys[kv.Name] = true
		o := control.ConfigOp{Key: cloneString(kv.Name), Op: op}
		if kv.Value != nil {
			o.Value = cloneString(*kv.Value)
		}
		ch.Ops = append(ch.Ops, o)
	}
	return ch, configOutcome{}
}
