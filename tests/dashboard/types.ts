// What a dashboard file may hold: Grafana's published types, with each panel's own options for its type.
//
// A dashboard is JSON, so where Grafana's types have an enum the file has that enum's value: `Json` says so.
import type { AnnotationQuery, Dashboard, DataQuery, Panel, VariableModel } from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type {
  FieldConfig as TimelineFieldConfig,
  Options as TimelineOptions,
} from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type {
  FieldConfig as TimeSeriesFieldConfig,
  Options as TimeSeriesOptions,
} from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** `T` as JSON has it: an enum by its value. */
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : T
    : T extends object
      ? { [K in keyof T]: Json<T[K]> }
      : T;

/** A query to Prometheus. Its type is the data source plugin's and not published. */
interface Target extends DataQuery {
  datasource: { type: 'prometheus'; uid: '${datasource}' };
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
}

/**
 * A panel of one type. The field config is spelled out, since Grafana's `FieldConfig` takes any property in `custom`,
 * and a misspelled one would pass.
 */
type PanelOf<Type extends string, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  title: string;
  description: string;
  options: Options;
  fieldConfig: {
    defaults: Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'> & { unit: string; custom?: Custom };
    overrides: NonNullable<Panel['fieldConfig']>['overrides'];
  };
  targets: Target[];
};

type AnyPanel =
  | PanelOf<'stat', StatOptions, never>
  | PanelOf<'state-timeline', TimelineOptions, TimelineFieldConfig>
  | PanelOf<'timeseries', TimeSeriesOptions, TimeSeriesFieldConfig>;

/** What Prometheus' data source adds to an annotation and to a variable. */
type Annotation = AnnotationQuery<DataQuery & { expr: string }> & { titleFormat: string };
type Variable = VariableModel & { definition?: string };

/** The dashboard of one cluster. */
export type ClusterDashboard = Json<
  Omit<Dashboard, 'panels' | 'annotations' | 'templating'> & {
    uid: string;
    title: string;
    panels: AnyPanel[];
    annotations: { list: Annotation[] };
    templating: { list: Variable[] };
  }
>;
