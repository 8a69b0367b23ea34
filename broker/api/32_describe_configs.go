package api

import (
	"strconv"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs (32, versions 1-4) lists every known key of a topic, of this
// broker or of the cluster-wide default (broker name ""), with its value,
// where that comes from, the values it hides, its type and a description.
func describeConfigs(c *call) {
	var req kmsg.DescribeConfigsRequest
	if !c.decode(&req) {
		return
	}
	img := c.s.b.Image()
	resp := &kmsg.DescribeConfigsResponse{Resources: make([]kmsg.DescribeConfigsResponseResource, len(req.Resources))}
	for i := range req.Resources {
		asked, r := &req.Resources[i], &resp.Resources[i]
		r.ResourceType, r.ResourceName = asked.ResourceType, asked.ResourceName
		values, code, msg := configsOf(c, img, asked)
		r.ErrorCode, r.ErrorMessage = code, message(msg)
		for k := range values {
			if v := &values[k]; wanted(asked.ConfigNames, v.Def.Name) {
				r.Configs = append(r.Configs, describedConfig(&req, asked.ResourceType, v))
			}
		}
	}
	c.reply(resp)
}

func configsOf(c *call, img *control.Image, asked *kmsg.DescribeConfigsRequestResource) (values []control.ConfigValue, code int16, msg string) {
	switch asked.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		t, code := c.findTopic(img, false, model.TopicID{}, asked.ResourceName)
		if code != 0 {
			return nil, code, ""
		}
		return control.DescribeTopicConfig(img, t), 0, ""
	case kmsg.ConfigResourceTypeBroker:
		if !c.allowedCluster() {
			return nil, kerr.ClusterAuthorizationFailed.Code, ""
		}
		id, node := model.NoBroker, map[string]string(nil)
		if asked.ResourceName != "" {
			if asked.ResourceName != strconv.Itoa(int(c.s.b.Self())) {
				return nil, kerr.InvalidRequest.Code, "this is broker " + strconv.Itoa(int(c.s.b.Self())) + ": ask a broker for its own configuration"
			}
			id, node = c.s.b.Self(), c.s.b.NodeConfig()
		}
		return control.DescribeBrokerConfig(img, id, node), 0, ""
	default:
		return nil, kerr.InvalidRequest.Code, "only topics and brokers have configurations here"
	}
}

// wanted reports whether a key is asked for; no names means all.
func wanted(names []string, key string) bool {
	for _, n := range names {
		if n == key {
			return true
		}
	}
	return len(names) == 0
}

func describedConfig(req *kmsg.DescribeConfigsRequest, kind kmsg.ConfigResourceType, v *control.ConfigValue) kmsg.DescribeConfigsResponseResourceConfig {
	r := kmsg.DescribeConfigsResponseResourceConfig{
		Name: v.Def.Name, Value: &v.Value, Source: kmsg.ConfigSource(v.Source), ConfigType: kmsg.ConfigType(v.Def.Type),
		ReadOnly: kind == kmsg.ConfigResourceTypeBroker && v.Def.Scope == control.ReadOnly,
	}
	if req.IncludeDocumentation {
		r.Documentation = &v.Def.Doc
	}
	if req.IncludeSynonyms {
		for i := range v.Synonyms {
			s := &v.Synonyms[i]
			r.ConfigSynonyms = append(r.ConfigSynonyms, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: s.Name, Value: &s.Value, Source: kmsg.ConfigSource(s.Source)})
		}
	}
	return r
}
