// One answer of the coordinator that follows an address and is asked for anew now and then. Keeps what it had when that fails.

import { get, Trouble } from "./api";
import { live } from "./live.svelte";

export class Loaded<T> {
  data = $state<T | null>(null);
  trouble = $state<Trouble | null>(null);
  isLoading = $state(true);
  loadedAt = $state(0);
  #path: () => string;
  #abort: AbortController | null = null;

  /** Within a component: loads at once, whenever `path()` changes, every `everyS` seconds while visible, and after a reconnection. "" loads nothing. */
  constructor(path: () => string, everyS = 0) {
    this.#path = path;
    let before = "";
    $effect(() => {
      const wanted = path();
      if (wanted.split("?")[0] !== before.split("?")[0]) this.data = null;
      before = wanted;
      void this.reload();
      return () => this.#abort?.abort();
    });
    let wasLost = false;
    $effect(() => {
      if (live.state === "lost") wasLost = true;
      else if (live.state === "live" && wasLost) {
        wasLost = false;
        void this.reload();
      }
    });
    if (everyS)
      $effect(() => {
        const timer = setInterval(() => document.hidden || this.trouble?.isMissing || void this.reload(), everyS * 1000);
        return () => clearInterval(timer);
      });
  }

  async reload(): Promise<void> {
    const path = this.#path();
    this.#abort?.abort();
    if (!path) return;
    const abort = new AbortController();
    this.#abort = abort;
    this.isLoading = true;
    try {
      this.data = await get<T>(path, abort.signal);
      this.trouble = null;
      this.loadedAt = Date.now() / 1000;
    } catch (problem) {
      if (abort.signal.aborted) return;
      this.trouble = problem instanceof Trouble ? problem : new Trouble(String(problem), "", 0);
    }
    this.isLoading = false;
  }
}
