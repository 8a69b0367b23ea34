package api

import (
	"context"
	"strconv"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// alterConfigsWait bounds a change of configuration: the requests carry no
// timeout of their own.
const alterConfigsWait = 30 * time.Second

// configOutcome is one resource's answer in both forms of the request.
type configOutcome struct {
	code int16
	msg  string
}

// submitConfigs has the controller decide the changes that are not refused
// already, and fills in the outcomes.
func submitConfigs(ctx context.Context, c *call, changes []control.ConfigChange, outcomes []configOutcome, validateOnly bool) {
	cmd := &control.AlterConfigs{ValidateOnly: validateOnly}
	var places []int
	for i := range changes {
		if outcomes[i].code == 0 {
			cmd.Resources = append(cmd.Resources, changes[i])
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		return
	}
	res, err := c.s.b.Submit(ctx, cmd)
	for k, i := range places {
		code, msg := outcome(res, len(res.Resources), k, err)
		if code == 0 {
			code, msg = res.Resources[k].Code, res.Resources[k].Message
		}
		outcomes[i] = configOutcome{code, msg}
	}
}

// checkConfigResource refuses what needs no controller. seen holds the
// resources of the request before this one.
func checkConfigResource(c *call, img *control.Image, kind kmsg.ConfigResourceType, name string, seen map[string]bool) configOutcome {
	key := strconv.Itoa(int(kind)) + ":" + name
	if seen[key] {
		return configOutcome{kerr.InvalidRequest.Code, "the request names this resource more than once"}
	}
	seen[key] = true
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		_, code := c.findTopic(img, false, model.TopicID{}, name)
		return configOutcome{code, ""}
	case kmsg.ConfigResourceTypeBroker:
		if !c.allowedCluster() {
			return configOutcome{kerr.ClusterAuthorizationFailed.Code, ""}
		}
		return configOutcome{}
	default:
		return configOutcome{kerr.InvalidRequest.Code, "only topics and brokers have configurations here"}
	}
}
