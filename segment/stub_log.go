package segment

import "github.com/tailrace/tailrace/internal/model"

// Methods of Log until the package lands.
func (*Log) TP() model.TopicPartition                             { panic("stub") }
func (*Log) Append([]byte) (AppendInfo, error)                    { panic("stub") }
func (*Log) Start() int64                                         { panic("stub") }
func (*Log) End() int64                                           { panic("stub") }
func (*Log) DurableEnd() int64                                    { panic("stub") }
func (*Log) Bytes() int64                                         { panic("stub") }
func (*Log) Read(int64, int64, int, bool) (*Range, error)         { panic("stub") }
func (*Log) Truncate(int64) error                                 { panic("stub") }
func (*Log) ResetTo(int64) error                                  { panic("stub") }
func (*Log) AdvanceStart(int64) error                             { panic("stub") }
func (*Log) LastEpoch() model.LeaderEpoch                         { panic("stub") }
func (*Log) EpochEnd(int32) (int32, int64)                        { panic("stub") }
func (*Log) EpochAt(int64) model.LeaderEpoch                      { panic("stub") }
func (*Log) OffsetForTime(int64, int64) (TimeOffset, bool, error) { panic("stub") }
func (*Log) MaxTimestamp(int64) (TimeOffset, bool, error)         { panic("stub") }
func (*Log) HighWatermark() int64                                 { panic("stub") }
func (*Log) SetHighWatermark(int64)                               { panic("stub") }
func (*Log) ProducerSnapshot() (int64, []byte, error)             { panic("stub") }
func (*Log) SaveProducerSnapshot(int64, []byte)                   { panic("stub") }
func (*Log) SetConfig(LogConfig)                                  { panic("stub") }
func (*Log) Suspect() Suspicion                                   { panic("stub") }
func (*Log) Damaged() []OffsetRange                               { panic("stub") }
func (*Log) Repair(OffsetRange, []byte) error                     { panic("stub") }
