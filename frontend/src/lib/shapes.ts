// Written by `python3 dev.py docs`; edit the code, not this file.

export interface ActionRequest {
  method: string;
  path: string;
  body: Record<string, string>;
}

export interface ActiveRequest {
  request_id: string;
  model: string;
  app: string;
  state: string;
  node_id: string | null;
  age_s: number;
  attempt: number;
  position: number | null;
  waits_for: string | null;
  expected_wait_s: number | null;
  estimated_tokens: number;
}

export interface AppDays {
  app: string;
  requests: number[];
  tokens: number[];
}

export interface AppLine {
  app: string;
  kind: string;
  requests: number;
  completed: number;
  failed: number;
  rejected: number;
  cancelled: number;
  prompt_tokens: number;
  completion_tokens: number;
  busy_s: number;
  share: number;
  wait_p95_ms: number | null;
  ttft_p50_ms: number | null;
  ttft_p95_ms: number | null;
  latency_p95_ms: number | null;
  retries: number;
  models: Record<string, number>;
  dialects: Record<string, number>;
  last_seen_at: number | null;
}

export interface Apps {
  range: string;
  from_at: number;
  to_at: number;
  apps: AppLine[];
  by_tag: Record<string, unknown>[];
  data: Record<string, unknown>[];
  summary: string;
}

export interface AppsDaily {
  days: number[];
  apps: AppDays[];
  data: Record<string, unknown>[];
}

export interface BenchmarkDetails {
  run_id: string;
  timestamp: number;
  duration_s: number;
  state: string;
  requests: number;
  failures: number;
  yields: number;
  method: string;
  cells: CellBox[];
  left_out: SkippedMeasurement[];
  fleet: Record<string, Record<string, string>>;
}

export interface BenchmarkProgress {
  run_id: string | null;
  state: string;
  done: number;
  total: number;
  message: string;
  left_s: number | null;
  yields: number;
}

export interface BenchmarkRunLine {
  run_id: string;
  timestamp: number;
  duration_s: number;
  state: string;
  requests: number;
  failures: number;
  yields: number;
  nodes: string[];
  models: string[];
}

export interface BenchmarkRuns {
  runs: BenchmarkRunLine[];
  running: string | null;
  comparison: ComparisonBox | null;
}

export interface BenchmarkStartRequest {
  models: string[];
  nodes: string[];
  kinds: string[];
  dry_run: boolean;
}

export interface BenchmarkStarted {
  run_id: string | null;
  estimate_s: number;
  requests: number;
  left_out: SkippedMeasurement[];
}

export interface BytesBar {
  before: number;
  after: number;
  total: number;
}

export interface CandidateLine {
  node_id: string;
  is_chosen: boolean;
  expected_ms: number | null;
  terms_ms: Record<string, number>;
  points: number | null;
  signals: Record<string, number>;
  running: number;
  pending: number;
  is_loaded: boolean;
  size_bytes: number;
  free_bytes: number;
  window_tokens: number | null;
}

export interface CellBox {
  node_id: string;
  model: string;
  decode_tok_s: SpreadBox | null;
  prefill_tok_s: SpreadBox | null;
  ttft_ms: SpreadBox | null;
  load_s: SpreadBox | null;
  scaling: ScalePoint[];
}

export interface ChangedDecisions {
  model: string;
  before: string;
  after: string;
  requests: number;
}

export interface ChartEvent {
  at: number;
  kind: string;
  text: string;
}

export interface CommandLine {
  os: string;
  command: string;
}

export interface ComparisonBox {
  a: string;
  b: string;
  verdict: string;
  change: number;
  plus_minus: number;
  cells: DifferenceBox[];
}

export interface ContextLine {
  model: string;
  context: ContextUse;
}

export interface ContextUsage {
  range: string;
  from_at: number;
  to_at: number;
  models: ContextLine[];
}

export interface ContextUse {
  used: Histogram;
  used_p50_tokens: number | null;
  used_p95_tokens: number | null;
  used_max_tokens: number | null;
  allocated_tokens: number | null;
  truncated: number;
}

export interface Cost {
  bytes: number;
  seconds: number;
  from: string;
}

export interface DecisionDetails {
  attempt: number;
  policy: string;
  chosen: string | null;
  candidates: CandidateLine[];
  ruled_out: RejectedLine[];
  left_out: number;
  otherwise: string[];
}

export interface DifferenceBox {
  node_id: string;
  model: string;
  measure: string;
  a: number;
  b: number;
  change: number;
  plus_minus: number;
  is_clear: boolean;
}

export interface FactLine {
  label: string;
  value: string;
}

export interface FindingBox {
  finding_id: string;
  check: string;
  severity: string;
  title: string;
  since: number;
  cause: string;
  evidence: FactLine[];
  nodes: string[];
  fix: FixBox;
  snoozed_until: number | null;
  snooze_reason: string;
}

export interface FinishedRequest {
  request_id: string;
  ended_at: number;
  model: string;
  app: string;
  node_id: string;
  status: string;
  latency_ms: number | null;
  ttft_ms: number | null;
  prompt_tokens: number | null;
  completion_tokens: number | null;
  retries: number;
  why: string;
}

export interface FixBox {
  text: string;
  commands: CommandLine[];
}

export interface FleetData {
  pulse: LiveNumbers;
  nodes: NodeCard[];
  gone: string[];
}

export interface FleetMessage {
  type: string;
  topic: string;
  seq: number;
  at: number;
  data: FleetData;
}

export interface FleetSummary {
  level: string;
  sentence: string;
}

export interface Gain {
  text: string;
  seconds: number;
  plus_minus: number;
  frees_bytes: number;
}

export interface GpuCard {
  name: string;
  memory_total_bytes: number;
  memory_used_bytes: number;
  utilization_pct: number | null;
  temperature_c: number | null;
}

export interface Health {
  at: number;
  summary: string;
  findings: FindingBox[];
  passed: PassedLine[];
  score: HealthScore;
}

export interface HealthScore {
  value: number;
  arithmetic: string;
}

export interface Histogram {
  edges: number[];
  counts: number[];
}

export interface HourHeat {
  demand: (number | null)[];
  capacity: (number | null)[];
  weeks: number;
}

export interface Job {
  job_id: string;
  kind: string;
  title: string;
  node_id: string;
  state: string;
  done: number;
  total: number;
  unit: string;
  started_at: number;
  ended_at: number | null;
  message: string;
  may_cancel: boolean;
}

export interface JobsData {
  jobs: Job[];
}

export interface JobsMessage {
  type: string;
  topic: string;
  seq: number;
  at: number;
  data: JobsData;
}

export interface Lane {
  attempt: number;
  node_id: string;
  outcome: string;
  goes_on: boolean;
  problem: string;
  spans: Phase[];
}

export interface LiveError {
  type: string;
  message: string;
}

export interface LiveNumbers {
  running: number;
  waiting: number;
  tokens_per_s: number;
  ttft_p50_ms: number | null;
  level: string;
  sentence: string;
}

export interface LoadedModel {
  name: string;
  engine: string;
  size_bytes: number;
  context_tokens: number | null;
  unload_in_s: number | null;
  running: number;
  pending: number;
  slots: number;
}

export interface MemoryBar {
  total_bytes: number;
  used_bytes: number;
  ceiling_bytes: number;
  pressure: string;
  is_graphics: boolean;
}

export interface ModelLine {
  name: string;
  digests: string[];
  has_drift: boolean;
  parameters: string;
  disk_bytes: number;
  requests: number;
  completed: number;
  failed: number;
  prompt_tokens: number;
  completion_tokens: number;
  tokens_per_s: number | null;
  ttft_p50_ms: number | null;
  ttft_p95_ms: number | null;
  cold_loads: number;
  load_lost_s: number;
  fell_back_to: Record<string, number>;
  stood_in_for: Record<string, number>;
  context: ContextUse;
  last_used_at: number | null;
  nodes: ModelNodeLine[];
}

export interface ModelManagement {
  nodes: NodeModels[];
  jobs: Job[];
  pinned: string[];
  drift: Record<string, Record<string, string[]>>;
}

export interface ModelNodeLine {
  node_id: string;
  state: string;
  digest: string;
  quantization: string;
  size_bytes: number;
  context_tokens: number | null;
  requests: number;
  completed: number;
  completion_tokens: number;
  tokens_per_s: number | null;
  prompt_tokens_per_s: number | null;
  ttft_p50_ms: number | null;
  ttft_p95_ms: number | null;
  cold_loads: number;
  load_lost_s: number;
  last_used_at: number | null;
}

export interface ModelOnDisk {
  name: string;
  size_bytes: number;
  digest: string;
  loaded: boolean;
  pinned: boolean;
  last_used_at: number | null;
}

export interface Models {
  range: string;
  from_at: number;
  to_at: number;
  models: ModelLine[];
  summary: string;
}

export interface NodeCard {
  node_id: string;
  state: string;
  why: string;
  heard_s: number;
  address: string;
  os: string;
  arch: string;
  chip: string;
  agent_version: string;
  engines: string[];
  cpu_pct: number;
  memory: MemoryBar;
  gpus: GpuCard[];
  disk_free_bytes: number | null;
  disk_total_bytes: number | null;
  thermal: string;
  temperature_c: number | null;
  running: number;
  pending: number;
  slots: number;
  tokens_per_s: number;
  models: LoadedModel[];
  models_on_disk: number;
  loading: string[];
  lent: SharedCapacity | null;
  availability: (number | null)[] | null;
}

export interface NodeChange {
  node_id: string;
  disk_bytes: BytesBar | null;
  memory_bytes: BytesBar;
}

export interface NodeModels {
  node_id: string;
  disk_total_bytes: number | null;
  disk_free_bytes: number | null;
  can_fetch: boolean;
  shares: boolean;
  models: ModelOnDisk[];
}

export interface NodeUptime {
  node_id: string;
  range: string;
  step_s: number;
  from_at: number;
  states: string;
}

export interface Overview {
  at: number;
  version: string;
  verdict: FleetSummary;
  numbers: OverviewNumbers;
  nodes: NodeCard[];
  queue: ActiveRequest[];
  running: ActiveRequest[];
  latest: FinishedRequest[];
  first_run: SetupStep[];
}

export interface OverviewNumbers {
  running: number;
  waiting: number;
  tokens_per_s: number;
  ttft_p50_ms: number | null;
  requests_today: number;
  failures_today: number;
}

export interface PassedLine {
  check: string;
  title: string;
}

export interface Phase {
  phase: string;
  start_ms: number;
  ms: number;
  is_measured: boolean;
}

export interface PullStarted {
  job_id: string;
  node_id: string;
  model: string;
}

export interface Recommendation {
  recommendation_id: string;
  kind: string;
  title: string;
  node_id: string;
  model: string;
  reason: string;
  rule: string;
  cost: Cost;
  gain: Gain;
  do: ActionRequest | null;
}

export interface Recommendations {
  at: number;
  since_at: number | null;
  summary: string;
  recommendations: Recommendation[];
  nodes: NodeChange[];
}

export interface RejectedLine {
  node_id: string;
  filter: string;
  reason: string;
}

export interface RequestDetails {
  request_id: string;
  sentence: string;
  status: string;
  model: string;
  model_asked: string;
  node_id: string;
  app: string;
  client_ip: string;
  dialect: string;
  kind: string;
  is_stream: boolean;
  ended_at: number;
  total_ms: number;
  ttft_ms: number | null;
  prompt_tokens: number | null;
  estimated_tokens: number | null;
  cached_tokens: number | null;
  completion_tokens: number | null;
  tokens_per_s: number | null;
  finish_reason: string | null;
  problem: string;
  lanes: Lane[];
  choices: DecisionDetails[];
  rows: Record<string, unknown>[];
}

export interface RequestEvent {
  what: string;
  at: number;
  request_id: string;
  model: string;
  app: string;
  node_id: string;
  status: string;
  completion_tokens: number;
  latency_ms: number;
}

export interface RequestsData {
  live: ActiveRequest[];
  moved: RequestEvent[];
  skipped: number;
}

export interface RequestsMessage {
  type: string;
  topic: string;
  seq: number;
  at: number;
  data: RequestsData;
}

export interface ScalePoint {
  concurrency: number;
  tok_s: number;
}

export interface Series {
  name: string;
  unit: string;
  values: (number | null)[];
  ghost: (number | null)[];
  total: number | null;
}

export interface SettingChangeLine {
  change_id: number;
  at: number;
  name: string;
  before: string | null;
  after: string | null;
  who: string;
  ip: string;
  may_undo: boolean;
}

export interface SettingChangeRequest {
  name: string;
  value: string | null;
}

export interface SettingChanged {
  change_id: number;
  setting: SettingLine;
  sentence: string;
}

export interface SettingHistory {
  changes: SettingChangeLine[];
}

export interface SettingLine {
  name: string;
  group: string;
  help: string;
  kind: string;
  value: string;
  value_in_force: string;
  default: string;
  source: string;
  source_detail: string;
  takes_effect: string;
  waits_for_restart: boolean;
  may_change: boolean;
  expects: string;
  choices: string[];
  minimum: number | null;
  maximum: number | null;
  is_secret: boolean;
}

export interface SettingsPage {
  settings: SettingLine[];
}

export interface SetupStep {
  name: string;
  done: boolean;
  command: string;
}

export interface SharedCapacity {
  mode: string;
  score: number;
  trend: string;
  reason: string;
  confidence: number;
  days_observed: number;
  is_overridden: boolean;
}

export interface SkippedMeasurement {
  node_id: string;
  model: string;
  reason: string;
}

export interface SnoozeRequest {
  finding_id: string;
  hours: number;
  reason: string;
}

export interface SnoozeResult {
  finding_id: string;
  until: number | null;
  reason: string;
}

export interface SpreadBox {
  median: number;
  low: number;
  high: number;
  count: number;
}

export interface Traces {
  traces: Record<string, unknown>[];
  next_before_id: number | null;
}

export interface Trends {
  range: string;
  from_at: number;
  to_at: number;
  step_s: number;
  at: number[];
  series: Series[];
  flags: ChartEvent[];
  heat: HourHeat;
  summary: string;
}

export interface UndoRequest {
  change_id: number;
}

export interface UptimeBars {
  range: string;
  strips: NodeUptime[];
}

export interface UsageReport {
  by_day: Record<string, unknown>[];
  by_tag: Record<string, unknown>[];
  by_key: Record<string, unknown>[];
  totals: Record<string, unknown>;
}

export interface WeightsPreview {
  sentence: string;
  choices: number;
  changed: number;
  undecidable: number;
  own_saved_s: number;
  others_saved_s: number;
  moves: ChangedDecisions[];
}

export interface WeightsPreviewRequest {
  values: Record<string, string>;
  limit: number;
}
