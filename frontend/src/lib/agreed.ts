// The shapes of health, recommendations, benchmarks and models on nodes, as docs/dashboard-api.md tells them.

export interface Fix {
  text: string;
  commands: { os: string; command: string }[];
}

export interface Finding {
  finding_id: string;
  check: string;
  severity: string;
  title: string;
  since: number | null;
  cause: string;
  evidence: { label: string; value: string }[];
  nodes: string[];
  fix: Fix | null;
  snoozed_until: number | null;
}

export interface NodeStrip {
  node_id: string;
  range: string;
  step_s: number;
  from_at: number;
  states: string;
}

export interface Health {
  at: number;
  summary: string;
  findings: Finding[];
  passed: { check: string; title: string }[];
  score: { value: number; arithmetic: string } | null;
  strips?: NodeStrip[];
}

export interface BeforeAfter {
  before: number;
  after: number;
  total: number;
}

export interface Recommendation {
  recommendation_id: string;
  kind: string;
  title: string;
  node_id: string | null;
  model: string | null;
  reason: string;
  rule: string;
  cost: { bytes: number | null; seconds: number | null; from: string | null } | null;
  gain: { text: string; seconds: number | null; plus_minus: number | null } | null;
  do: { method: string; path: string; body: Record<string, unknown> } | null;
}

export interface Recommendations {
  at: number;
  summary: string;
  recommendations: Recommendation[];
  nodes: { node_id: string; disk_bytes: BeforeAfter | null; memory_bytes: BeforeAfter | null }[];
}

export interface Spread {
  median: number;
  low: number;
  high: number;
}

export interface BenchmarkCell {
  node_id: string;
  model: string;
  decode_tok_s: Spread | null;
  prefill_tok_s: Spread | null;
  ttft_ms: Spread | null;
  load_s: Spread | null;
  scaling: { concurrency: number; tok_s: number }[];
}

export interface BenchmarkRun {
  run_id: string;
  timestamp: number;
  duration_s: number;
  state: string;
  method: string;
  cells: BenchmarkCell[];
  router_overhead_ms: Spread | null;
}

export interface Comparison {
  a: string;
  b: string;
  verdict: string;
  cells: { node_id: string; model: string; measure: string; a: number; b: number; change: number; plus_minus: number }[];
}

export interface Benchmarks {
  runs: Partial<BenchmarkRun>[];
  running: string | null;
  comparison?: Comparison | null;
}

export interface Progress {
  run_id: string | null;
  state: string;
  done: number;
  total: number;
  message: string;
  left_s: number | null;
}

export interface ManagedModel {
  name: string;
  size_bytes: number;
  digest: string;
  loaded: boolean;
  pinned: boolean;
  last_used_at: number | null;
}

export interface ModelManagement {
  nodes: { node_id: string; disk_total_bytes: number | null; disk_free_bytes: number | null; models: ManagedModel[] }[];
  pinned: string[];
}
