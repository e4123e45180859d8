// Keeps the live state of the fleet from one WebSocket: snapshots and deltas in, nodes, requests and jobs out.
// While the tab is hidden it subscribes to nothing. Where WebSockets do not work it polls the API instead.

import { API, get } from "./api";
import type {
  ActiveRequest,
  FleetData,
  FleetMessage,
  Job,
  JobsData,
  JobsMessage,
  LiveError,
  LiveNumbers,
  NodeCard,
  Overview,
  RequestEvent,
  RequestsData,
  RequestsMessage,
} from "./shapes";

const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 10_000;
const RETRY_GROWTH = 1.7;
const SILENCE_MAX_MS = 6_000;
const POLL_EVERY_MS = 3_000;
const SPARKLINE_POINTS = 60;
const JOBS_MAX = 20;

type Message = FleetMessage | RequestsMessage | JobsMessage;
type Listener = (events: RequestEvent[]) => unknown;

class Live {
  state = $state<"connecting" | "live" | "lost" | "refused">("connecting");
  numbers = $state<LiveNumbers | null>(null);
  nodes = $state<NodeCard[]>([]);
  requests = $state<ActiveRequest[]>([]);
  jobs = $state<Job[]>([]);
  /** Tokens per second of each node over the last minute, the newest last. */
  tokenRates = $state<Record<string, number[]>>({});

  #socket: WebSocket | null = null;
  #sequences = new Map<string, number>();
  #retryMs = RETRY_FIRST_MS;
  #lastMessageAt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #listeners = new Set<Listener>();
  #hasFleet = false;
  #hasOpened = false;

  start(): void {
    this.#connect();
    document.addEventListener("visibilitychange", () => this.#subscribe());
    addEventListener("online", () => this.#connectAfter(0));
    setInterval(() => this.#checkSilence(), 1000);
    setInterval(() => void this.#poll(), POLL_EVERY_MS);
  }

  /** Calls the listener with every batch of request events. Returns a function that removes the listener. */
  onRequestEvents(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** A proxy in between may not support WebSockets; then the overview is polled. */
  async #poll(): Promise<void> {
    if (this.state !== "refused" || document.hidden) return;
    try {
      const overview = await get<Overview>("overview");
      this.adopt(overview.nodes, [...overview.queue, ...overview.running]);
    } catch {
      // The page shows the error of its own requests.
    }
  }

  /** Takes the state from an ordinary API answer while there is no live connection. */
  adopt(nodes: NodeCard[], requests: ActiveRequest[]): void {
    if (this.state === "live") return;
    this.nodes = nodes;
    this.requests = requests;
  }

  reconnect(): void {
    this.#retryMs = RETRY_FIRST_MS;
    this.#connectAfter(0);
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
      this.#lastMessageAt = Date.now();
      this.#subscribe();
    };
    socket.onmessage = (event) => {
      if (socket === this.#socket && typeof event.data === "string") this.#onMessage(event.data);
    };
    socket.onclose = () => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      this.state = this.#hasFleet || this.#hasOpened ? "lost" : "refused";
      this.#connectAfter(this.#retryMs);
      this.#retryMs = Math.min(RETRY_MAX_MS, this.#retryMs * RETRY_GROWTH);
    };
  }

  #connectAfter(delayMs: number): void {
    clearTimeout(this.#timer);
    if (this.#socket) return;
    this.#timer = setTimeout(() => this.#connect(), delayMs);
  }

  #subscribe(): void {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    this.#sequences.clear();
    this.#lastMessageAt = Date.now();
    this.#socket.send(JSON.stringify({ sub: document.hidden ? [] : ["fleet", "requests", "jobs"] }));
  }

  /** The fleet topic sends a message every second, so a silent connection is dead even if TCP still reports it open. */
  #checkSilence(): void {
    if (document.hidden || this.state !== "live" || Date.now() - this.#lastMessageAt < SILENCE_MAX_MS) return;
    this.state = "lost";
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#connectAfter(0);
  }

  #onMessage(text: string): void {
    const message = JSON.parse(text) as Message | LiveError;
    this.#lastMessageAt = Date.now();
    if (!("topic" in message)) return;
    const previous = this.#sequences.get(message.topic);
    if (message.type === "delta" && previous === undefined) return;
    if (message.type === "delta" && message.seq !== (previous ?? 0) + 1) {
      // A message was missed: a new subscription brings a new snapshot.
      this.#subscribe();
      return;
    }
    this.#sequences.set(message.topic, message.seq);
    this.state = "live";
    this.#retryMs = RETRY_FIRST_MS;
    const isSnapshot = message.type === "snapshot";
    if (message.topic === "fleet") this.#onFleet(message.data as FleetData, isSnapshot);
    else if (message.topic === "requests") this.#onRequests(message.data as RequestsData, isSnapshot);
    else this.#onJobs(message.data as JobsData, isSnapshot);
  }

  #onFleet(data: FleetData, isSnapshot: boolean): void {
    this.numbers = data.pulse;
    if (isSnapshot) {
      this.nodes = data.nodes;
    } else if (data.nodes.length || data.gone.length) {
      const nodes = new Map(this.nodes.map((node) => [node.node_id, node]));
      for (const node of data.nodes) {
        // Deltas leave `availability` out, because it changes once an hour.
        const availability = node.availability ?? nodes.get(node.node_id)?.availability ?? null;
        nodes.set(node.node_id, { ...node, availability });
      }
      for (const id of data.gone) nodes.delete(id);
      this.nodes = [...nodes.values()].sort((a, b) => a.node_id.localeCompare(b.node_id));
    }
    this.#hasFleet = true;
    const rates: Record<string, number[]> = {};
    for (const node of this.nodes)
      rates[node.node_id] = [...(this.tokenRates[node.node_id] ?? []), node.tokens_per_s].slice(-SPARKLINE_POINTS);
    this.tokenRates = rates;
  }

  #onRequests(data: RequestsData, isSnapshot: boolean): void {
    if (isSnapshot) {
      this.requests = data.live;
      return;
    }
    const requests = new Map(this.requests.map((request) => [request.request_id, request]));
    for (const event of data.moved) {
      if (event.what === "ended") requests.delete(event.request_id);
      else requests.set(event.request_id, updated(requests.get(event.request_id), event));
    }
    this.requests = [...requests.values()];
    if (data.moved.length) for (const listener of this.#listeners) listener(data.moved);
  }

  #onJobs(data: JobsData, isSnapshot: boolean): void {
    const jobs = new Map((isSnapshot ? [] : this.jobs).map((job) => [job.job_id, job]));
    for (const job of data.jobs) jobs.set(job.job_id, job);
    this.jobs = [...jobs.values()].sort((a, b) => b.started_at - a.started_at).slice(0, JOBS_MAX);
  }
}

const STATE_AFTER: Record<string, string> = {
  arrived: "held",
  waiting: "pending",
  routed: "dispatched",
  first: "streaming",
  retried: "pending",
};

/** The request as it is after the event. */
function updated(request: ActiveRequest | undefined, event: RequestEvent): ActiveRequest {
  const before: ActiveRequest = request ?? {
    request_id: event.request_id,
    model: event.model,
    app: event.app,
    state: "held",
    node_id: null,
    age_s: 0,
    attempt: 0,
    position: null,
    waits_for: null,
    expected_wait_s: null,
    estimated_tokens: 0,
  };
  return { ...before, state: STATE_AFTER[event.what] ?? before.state, node_id: event.node_id || before.node_id };
}

export const live = new Live();
