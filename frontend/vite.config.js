// Configures the build: hashed assets beside one index.html, with nothing inline, because the coordinator's CSP forbids it.
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const coordinator = process.env.HERD_URL ?? "http://127.0.0.1:11435";

export default defineConfig({
  base: "/dashboard/",
  // Short class names, and one file of styles: the whole dashboard is some kilobytes of styles.
  plugins: [
    svelte({
      compilerOptions: { discloseVersion: false, cssHash: ({ hash, css }) => `s${hash(css).slice(0, 4)}` },
    }),
  ],
  build: {
    outDir: "../src/herd/coordinator/api/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: {
    proxy: {
      "/dashboard/api": { target: coordinator, changeOrigin: true, ws: true },
      "/api": coordinator,
      "/v1": coordinator,
      "/fleet": coordinator,
      "/login": coordinator,
    },
  },
});
