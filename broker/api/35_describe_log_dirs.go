package api

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tailrace/tailrace/broker/control"
	"github.com/tailrace/tailrace/internal/model"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeLogDirs (35, versions 1-5) reports size and lag of this broker's
// replicas and the space of its data directory.
func describeLogDirs(c *call) {
	var req kmsg.DescribeLogDirsRequest
	if !c.decode(&req) {
		return
	}
	c.background(logDirsWait, func(ctx context.Context) {
		resp := &kmsg.DescribeLogDirsResponse{}
		if !c.allowedCluster() {
			resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
			c.reply(resp)
			return
		}
		d := c.s.b.LogDir()
		dir := kmsg.DescribeLogDirsResponseDir{Dir: d.Path, ErrorCode: d.Err, TotalBytes: d.Total, UsableBytes: d.Free}
		img := c.s.b.Image()
		if req.Topics == nil {
			for _, name := range slices.Sorted(maps.Keys(img.TopicsByName)) {
				addLogDirTopic(c, &dir, img.TopicsByName[name], nil)
			}
		}
		for i := range req.Topics {
			if t := img.TopicsByName[req.Topics[i].Topic]; t != nil {
				addLogDirTopic(c, &dir, t, req.Topics[i].Partitions)
			}
		}
		resp.Dirs = append(resp.Dirs, dir)
		c.reply(resp)
	})
}

// logDirsWait bounds the wait for a slot.
const logDirsWait = 30 * time.Second

// addLogDirTopic adds the topic's replicas on this broker; nil means all
// partitions.
func addLogDirTopic(c *call, dir *kmsg.DescribeLogDirsResponseDir, t *control.Topic, partitions []int32) {
	out := kmsg.DescribeLogDirsResponseDirTopic{Topic: t.Name}
	for p := range t.Partitions {
		if partitions != nil && !slices.Contains(partitions, int32(p)) {
			continue
		}
		if r := c.s.b.Replica(model.TopicPartition{Topic: t.ID, Partition: int32(p)}); r != nil {
			st := r.Status()
			out.Partitions = append(out.Partitions, kmsg.DescribeLogDirsResponseDirTopicPartition{
				Partition: int32(p), Size: st.Bytes, OffsetLag: max(st.HighWatermark-st.LogEnd, 0),
			})
		}
	}
	if len(out.Partitions) > 0 {
		dir.Topics = append(dir.Topics, out)
	}
}
