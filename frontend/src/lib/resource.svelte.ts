// Loads one API answer, reloads it on a schedule, and keeps the last good answer when a reload fails.

import { ApiError, errorText, get } from "./api";
import { live } from "./live.svelte";

export class Resource<T> {
  data = $state<T | null>(null);
  error = $state<ApiError | null>(null);
  isLoading = $state(true);
  /** Unix seconds of the last good answer. */
  loadedAt = $state(0);
  #path: () => string;
  #abort: AbortController | null = null;

  /**
   * Create it within a component. It loads at once, whenever `path()` changes, every `everyS` seconds while the tab is
   * visible, and after a reconnection. A path of "" loads nothing.
   */
  constructor(path: () => string, everyS = 0) {
    this.#path = path;
    let previous = "";
    $effect(() => {
      const current = path();
      if (current.split("?")[0] !== previous.split("?")[0]) this.data = null;
      previous = current;
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
        const timer = setInterval(() => document.hidden || this.error?.isMissing || void this.reload(), everyS * 1000);
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
      this.error = null;
      this.loadedAt = Date.now() / 1000;
    } catch (problem) {
      if (abort.signal.aborted) return;
      this.error = problem instanceof ApiError ? problem : new ApiError(errorText(problem), "", 0);
    }
    this.isLoading = false;
  }
}
