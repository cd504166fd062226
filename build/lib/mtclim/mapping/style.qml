<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
 <renderer-v2 type="categorizedSymbol" attr=$column symbollevels="0" forceraster="0" enableorderby="0">
  <categories>$categories</categories>
  <symbols>$symbols</symbols>
  <rotation/><sizescale/>
 </renderer-v2>
 <layerGeometryType>$geometry</layerGeometryType>
</qgis>
