// Holds the current time, updated once a second while the tab is visible, for texts such as "5 min ago".

class Clock {
  /** Unix seconds. */
  now = $state(Date.now() / 1000);

  constructor() {
    setInterval(() => document.hidden || (this.now = Date.now() / 1000), 1000);
  }
}

export const clock = new Clock();
