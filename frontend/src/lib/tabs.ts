// Finds the pages of the dashboard: every file in ../tabs is one page and describes itself in its exported `tab`.

import type { Component } from "svelte";

/** `icon` is an SVG path on a 24 x 24 grid; pages are listed by ascending `order`. */
export interface TabDescription {
  title: string;
  order: number;
  icon: string;
}

export interface Tab extends TabDescription {
  name: string;
  component: Component;
}

const modules = import.meta.glob<{ tab: TabDescription; default: Component }>("../tabs/*.svelte", { eager: true });

export const TABS: Tab[] = Object.entries(modules)
  .map(([file, module]) => ({
    ...module.tab,
    name: file.replace("../tabs/", "").replace(".svelte", ""),
    component: module.default,
  }))
  .sort((a, b) => a.order - b.order);

/** The page of that name; the first page where there is none. */
export function tabNamed(name: string): Tab {
  return (TABS.find((tab) => tab.name === name) ?? TABS[0]) as Tab;
}
