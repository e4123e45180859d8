// What is happening now, over one WebSocket: snapshots and deltas in, the state of the fleet out. Silent while the tab is hidden.

import { API, get } from "./api";
import type { FleetData, Job, JobsData, LiveRequest, Moved, NodeCard, Overview, Pulse, RequestsData } from "./shapes";

const FIRST_RETRY_MS = 500;
const RETRY_MAX_MS = 10_000;
const QUIET_MAX_MS = 6_000;
const ASK_INSTEAD_MS = 3_000;
const SPARK_POINTS = 60;
const JOBS_KEPT = 20;

interface Message {
  type: "snapshot" | "delta" | "error";
  topic: "fleet" | "requests" | "jobs";
  seq: number;
  at: number;
  data: FleetData | RequestsData | JobsData;
}

type Listener = (moved: Moved[]) => unknown;

class Live {
  state = $state<"connecting" | "live" | "lost" | "refused">("connecting");
  pulse = $state<Pulse | null>(null);
  nodes = $state<NodeCard[]>([]);
  requests = $state<LiveRequest[]>([]);
  jobs = $state<Job[]>([]);
  /** The coordinator's clock at its last word, unix seconds. */
  at = $state(0);
  /** Tokens per second of each node, the newest last. */
  sparks = $state<Record<string, number[]>>({});
  hasFleet = $state(false);

  #socket: WebSocket | null = null;
  #sequences = new Map<string, number>();
  #retryMs = FIRST_RETRY_MS;
  #heardAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #listeners = new Set<Listener>();
  #hasOpened = false;

  start(): void {
    this.#connect();
    document.addEventListener("visibilitychange", () => this.#subscribe());
    addEventListener("online", () => this.#again(0));
    setInterval(() => this.#listen(), 1000);
    setInterval(() => void this.#askInstead(), ASK_INSTEAD_MS);
  }

  /** Calls with every batch of things that happened to requests; returns what ends that. */
  onMoved(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Between us and the coordinator may be something that knows no WebSockets: then it is asked now and then. */
  async #askInstead(): Promise<void> {
    if (this.state !== "refused" || document.hidden) return;
    try {
      const told = await get<Overview>("overview");
      this.adopt(told.nodes, [...told.queue, ...told.running]);
    } catch {
      // The page itself tells what is wrong.
    }
  }

  /** What an ordinary answer told, while nothing is told live. */
  adopt(nodes: NodeCard[], requests: LiveRequest[]): void {
    if (this.state === "live") return;
    this.nodes = nodes;
    this.requests = requests;
  }

  reconnect(): void {
    this.#retryMs = FIRST_RETRY_MS;
    this.#again(0);
  }

  #connect(): void {
    clearTimeout(this.#timer);
    this.#socket?.close();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${API}/live`);
    this.#socket = socket;
    this.#hasOpened = false;
    socket.onopen = () => {
      this.#hasOpened = true;
      this.#heardAt = Date.now();
      this.#subscribe();
    };
    socket.onmessage = (event) => {
      if (socket === this.#socket && typeof event.data === "string") this.#hear(event.data);
    };
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.state = this.hasFleet || this.#hasOpened ? "lost" : "refused";
      this.#again(this.#retryMs);
      this.#retryMs = Math.min(RETRY_MAX_MS, this.#retryMs * 1.7);
    };
  }

  #again(afterMs: number): void {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#timer = setTimeout(() => this.#connect(), afterMs);
  }

  #subscribe(): void {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#sequences.clear();
    this.#heardAt = Date.now();
    this.#socket.send(JSON.stringify({ sub: document.hidden ? [] : ["fleet", "requests", "jobs"] }));
  }

  /** The fleet is told once a second: a connection that says nothing for long is dead, whatever TCP believes. */
  #listen(): void {
    if (document.hidden || this.state !== "live" || Date.now() - this.#heardAt < QUIET_MAX_MS) return;
    this.state = "lost";
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#again(0);
  }

  #hear(text: string): void {
    const message = JSON.parse(text) as Message;
    this.#heardAt = Date.now();
    if (message.type === "error") return;
    const before = this.#sequences.get(message.topic);
    if (message.type === "delta" && before === undefined) return;
    if (message.type === "delta" && message.seq !== (before ?? 0) + 1) {
      this.#subscribe();
      return;
    }
    this.#sequences.set(message.topic, message.seq);
    this.at = message.at;
    this.state = "live";
    this.#retryMs = FIRST_RETRY_MS;
    const isWhole = message.type === "snapshot";
    if (message.topic === "fleet") this.#onFleet(message.data as FleetData, isWhole);
    else if (message.topic === "requests") this.#onRequests(message.data as RequestsData, isWhole);
    else this.#onJobs(message.data as JobsData, isWhole);
  }

  #onFleet(data: FleetData, isWhole: boolean): void {
    this.pulse = data.pulse;
    if (isWhole) {
      this.nodes = data.nodes;
    } else if (data.nodes.length || data.gone.length) {
      const kept = new Map(this.nodes.map((node) => [node.node_id, node]));
      // What changes once an hour is told once: deltas leave it out.
      for (const node of data.nodes) kept.set(node.node_id, { ...node, availability: node.availability ?? kept.get(node.node_id)?.availability ?? null });
      for (const id of data.gone) kept.delete(id);
      this.nodes = [...kept.values()].sort((a, b) => a.node_id.localeCompare(b.node_id));
    }
    this.hasFleet = true;
    const sparks: Record<string, number[]> = {};
    for (const node of this.nodes) sparks[node.node_id] = [...(this.sparks[node.node_id] ?? []), node.tokens_per_s].slice(-SPARK_POINTS);
    this.sparks = sparks;
  }

  #onRequests(data: RequestsData, isWhole: boolean): void {
    if (isWhole) {
      this.requests = data.live;
      return;
    }
    const live = new Map(this.requests.map((request) => [request.request_id, request]));
    for (const moved of data.moved) {
      if (moved.what === "ended") live.delete(moved.request_id);
      else live.set(moved.request_id, after(live.get(moved.request_id), moved));
    }
    this.requests = [...live.values()];
    if (data.moved.length) for (const listener of this.#listeners) listener(data.moved);
  }

  #onJobs(data: JobsData, isWhole: boolean): void {
    const kept = new Map((isWhole ? [] : this.jobs).map((job) => [job.job_id, job]));
    for (const job of data.jobs) kept.set(job.job_id, job);
    this.jobs = [...kept.values()].sort((a, b) => b.started_at - a.started_at).slice(0, JOBS_KEPT);
  }
}

const STATES: Record<string, string> = { arrived: "held", waiting: "pending", routed: "dispatched", first: "streaming", retried: "pending" };

function after(request: LiveRequest | undefined, moved: Moved): LiveRequest {
  const known: LiveRequest = request ?? {
    request_id: moved.request_id, model: moved.model, app: moved.app, state: "held", node_id: null, age_s: 0, attempt: 0,
    position: null, waits_for: null, expected_wait_s: null, estimated_tokens: 0,
  };
  return { ...known, state: STATES[moved.what] ?? known.state, node_id: moved.node_id || known.node_id };
}

export const live = new Live();
